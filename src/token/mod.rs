//! The words everybody uses: what a token is, whom it is for, and what names it.
//!
//! Owns the types that other rooms pass around. Promises that a token's bytes are reachable only
//! through [`Secret::expose`], and that two requests share a [`TokenKey`] only when the upstream
//! would see the same request. Leaves wire formats to `protocol` and `upstream`.

mod access_token;
mod identity;
mod key;
mod lifetime;
mod resource;
mod secret;

pub use access_token::AccessToken;
pub use identity::{Identity, InvalidSelector};
pub use key::{InvalidKey, MAX_EXTRAS, TokenKey};
pub use lifetime::Lifetime;
pub use resource::{InvalidResource, Resource};
pub use secret::Secret;
