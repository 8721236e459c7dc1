//! The page at `/`: a conversation in two columns.

/// The whole page, which asks the network for nothing but this server's API.
pub fn html() -> &'static str {
    ""
}
