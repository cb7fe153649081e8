//! What the README promises a newcomer, run as it is written there.
//!
//! Invariant: the README's first commands and answers are real.

use crate::kit::readme;
use crate::node::Node;

#[tokio::test(flavor = "multi_thread")]
async fn the_curls_of_the_readme_answer_as_it_says() {
    let node = Node::start(&[]);
    readme::assert_answers(node.url(), true);
}
