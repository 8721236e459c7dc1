//! lorafit train
