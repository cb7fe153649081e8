//! Decodes arbitrary bytes as a message from another node: decoding never panics, and a decoded
//! message is unchanged after it is encoded and decoded again.

#![no_main]

use headcount::counter::exchange::{
    ContainsQuery, CountsAnswers, CountsGroup, ListingQuery, LossPlan, LossReceipt, LossRequest,
    Message,
};
use headcount::counter::{Contains, Listing, Status};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    check::<CountsGroup>(bytes);
    check::<CountsAnswers>(bytes);
    check::<ContainsQuery>(bytes);
    check::<Contains>(bytes);
    check::<ListingQuery>(bytes);
    check::<Listing>(bytes);
    check::<Status>(bytes);
    check::<LossPlan>(bytes);
    check::<LossRequest>(bytes);
    check::<LossReceipt>(bytes);
});

fn check<M: Message>(bytes: &[u8]) {
    let Ok(message) = M::decode(bytes) else {
        return;
    };
    let written = message.encode();
    let again = M::decode(&written).expect("what was written can be read");
    assert_eq!(again.encode(), written, "two forms of one message");
}
