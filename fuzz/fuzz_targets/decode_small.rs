//! Decodes arbitrary bytes as tokens, announcements, identities of data directories, names and
//! generations: decoding never panics, and a decoded value is unchanged after it is encoded and
//! decoded again.
//!
//! The first byte selects the kind of the rest. A kind with a checksum is also tried with the
//! checksum corrected.

#![no_main]

use data_encoding::BASE64URL_NOPAD;
use headcount::log::amqp::fuzzing::{announcement_again, generation_again};
use headcount::model::{CounterName, TenantName, Token, check_item_id};
use headcount::store::data_dir::Identity;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&kind, bytes)) = input.split_first() else {
        return;
    };
    let summed = [bytes, &crc32fast::hash(bytes).to_le_bytes()].concat();
    match kind % 5 {
        0 => {
            token(&String::from_utf8_lossy(bytes));
            token(&BASE64URL_NOPAD.encode(&summed));
        }
        1 => {
            if let Some(again) = announcement_again(bytes) {
                assert_eq!(announcement_again(&again), Some(again.clone()));
            }
        }
        2 => {
            for bytes in [bytes, &summed] {
                if let Some(again) = Identity::again(bytes) {
                    assert_eq!(again, bytes, "two forms of one identity");
                }
            }
        }
        3 => names(&String::from_utf8_lossy(bytes)),
        _ => {
            for bytes in [bytes, &summed] {
                if let Some(again) = generation_again(bytes) {
                    assert_eq!(again, bytes, "two forms of one generation");
                }
            }
        }
    }
});

fn token(text: &str) {
    if let Ok(token) = Token::decode(text) {
        assert_eq!(token.to_string(), text, "two forms of one token");
        let _ = token.requirement();
    }
}

fn names(text: &str) {
    let _ = check_item_id(text);
    if let Ok(name) = TenantName::new(text) {
        assert_eq!(name.as_str(), text);
    }
    if let Some(name) = CounterName::new(text) {
        assert_eq!(name.as_str(), text);
    }
}
