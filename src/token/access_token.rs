//! One access token as the upstream gave it.

use super::{Lifetime, Secret};

/// An access token and the facts that came with it. The token itself stays opaque: nothing that
/// serves looks inside.
pub struct AccessToken {
    /// The bearer token.
    pub secret: Secret,
    /// When it was received, ends and may be renewed.
    pub lifetime: Lifetime,
    /// The client id that the upstream named in its answer, in the upstream's spelling.
    pub client_id: Option<String>,
}
