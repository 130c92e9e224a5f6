//! Which keys an operator means: `?all`, or `?resource=R`, `?identity=I`, or both of these.

use super::Answer;
use crate::protocol::parse_query;
use crate::refresh::Which;
use crate::token::TokenKey;

/// Every key, or those that are picked.
pub(super) enum Keys {
    All,
    Picked(Which),
}

impl Keys {
    /// What a query says. A resource is compared byte by byte, an identity without regard to case
    /// with the words by which `/status` names it.
    pub(super) fn of(query: &str) -> Result<Self, Answer> {
        let wrong = || Answer::text(400, "say ?all, or ?resource=R, ?identity=I or both\n");
        let parameters = parse_query(query.as_bytes()).map_err(|_| wrong())?;
        if let [it] = &*parameters
            && it.name == b"all"
        {
            return Ok(Self::All);
        }
        let (mut resource, mut identity) = (None, None);
        for it in &parameters {
            let place = match &*it.name {
                b"resource" => &mut resource,
                b"identity" => &mut identity,
                _ => return Err(wrong()),
            };
            if place.replace(it.value.clone()).is_some() {
                return Err(wrong());
            }
        }
        if resource.is_none() && identity.is_none() {
            return Err(wrong());
        }
        let fits = move |key: &TokenKey| {
            let named = key.identity.to_string();
            let resource = resource.as_ref();
            let identity = identity.as_ref();
            resource.is_none_or(|it| key.resource.as_str().as_bytes() == it)
                && identity.is_none_or(|it| named.as_bytes().eq_ignore_ascii_case(it))
        };
        Ok(Self::Picked(Box::new(fits)))
    }

    /// For the refresh thread; `None` for all.
    pub(super) fn which(self) -> Option<Which> {
        match self {
            Self::All => None,
            Self::Picked(which) => Some(which),
        }
    }
}
