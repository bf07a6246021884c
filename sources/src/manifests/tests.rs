//! What becomes of files: their texts, what changes in a directory, and when it is noticed.

mod hostile;
mod random;
mod scan;
mod survey;
mod texts;
mod url;
mod watch;
mod whole;
mod writers;
mod yaml_1_1;

use std::path::Path;

use crate::tests::{json, plain, problems, yaml};

fn write(directory: &Path, name: &str, text: &str) {
    std::fs::write(directory.join(name), text).unwrap();
}
