//! lorafit data
