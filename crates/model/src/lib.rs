//! lorafit model
