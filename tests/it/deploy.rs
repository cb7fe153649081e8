//! What the image and the compose file hand to the program.
//!
//! Invariant: a setting that is misspelt there would be ignored in silence; here it is found.

use crate::node::run;

/// Every environment variable of ours that `text` names.
fn variables(text: &str) -> Vec<&str> {
    text.split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
        .filter(|word| word.starts_with("HEADCOUNT_"))
        .collect()
}

#[test]
fn the_image_and_the_compose_file_use_settings_that_exist() {
    // The help of a command names the environment variable of each of its settings.
    let help = ["serve", "coordinator", "counter"].map(|role| run(&[role, "--help"]).stdout);
    let dockerfile = variables(include_str!("../../Dockerfile"));
    let compose = variables(include_str!("../../docker-compose.yml"));
    assert!(!dockerfile.is_empty() && !compose.is_empty());
    for variable in dockerfile.into_iter().chain(compose) {
        let shown = format!("[env: {variable}=");
        assert!(
            help.iter().any(|help| help.contains(&shown)),
            "no setting has the variable {variable}"
        );
    }
}
