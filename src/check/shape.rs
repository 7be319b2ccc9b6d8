//! Does the request have the shape that the route expects?

use crate::policy::{Limits, Route};
use crate::reject::Reject;
use crate::request::Head;

/// What the head says of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Declared {
    /// `Content-Length`, if there is one.
    pub length: Option<u64>,
    /// The sender waits for `100 Continue`.
    pub expects_continue: bool,
}

/// Bounds and grammar of the head, before any route is looked for: number and size of fields, target length, exactly
/// one Host, framing that means one thing (RFC 9112 section 6), Expect.
pub fn head(head: &Head<'_>, limits: &Limits) -> Result<Declared, Reject> {
    let _ = (head, limits);
    unimplemented!()
}

/// What the route asks for: media type, encoding, required headers.
pub fn of_route(head: &Head<'_>, route: &Route) -> Result<(), Reject> {
    let _ = (head, route);
    unimplemented!()
}

/// The declared size against the route's `max_body`.
pub fn size(declared: &Declared, route: &Route) -> Result<(), Reject> {
    let _ = (declared, route);
    unimplemented!()
}
