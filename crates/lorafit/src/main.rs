//! lorafit
fn main() {}
