//! Which checks only observe, and which refuse a part.

use super::compile::Compiler;
use super::place::Place;
use super::raw;
use crate::policy::{Observable, Observed};

impl Compiler<'_> {
    pub(super) fn observed(&mut self, observe: &[raw::Observe], enforce: &raw::Enforce, at: &Place) -> Observed {
        let mut observed = Observed::default();
        let help = "for a trial only: remove it once the metrics show no honest sender refused";
        for (i, check) in observe.iter().enumerate() {
            observed = observed.with(observable(*check), 100);
            if *check == raw::Observe::Signature {
                self.warn(&at.key("observe").index(i), "forged requests reach the backend", help);
            }
        }
        for (check, key, share) in [
            (raw::Observe::Https, "https", enforce.https),
            (raw::Observe::Allow, "allow", enforce.allow),
            (raw::Observe::RateLimit, "rate_limit", enforce.rate_limit),
            (raw::Observe::Shape, "shape", enforce.shape),
            (raw::Observe::Signature, "signature", enforce.signature),
            (raw::Observe::Duplicates, "duplicates", enforce.duplicates),
        ] {
            let Some(share) = share else { continue };
            let at = at.key("enforce").key(key);
            if observe.contains(&check) {
                self.wrong(&at, "the check only observes", format!("remove {key} from `observe`, or from here"));
            }
            if check == raw::Observe::Signature && share.0 < 100 {
                self.warn(&at, "some forged requests reach the backend", help);
            }
            observed = observed.with(observable(check), 100 - share.0);
        }
        observed
    }
}

fn observable(check: raw::Observe) -> Observable {
    match check {
        raw::Observe::Https => Observable::Https,
        raw::Observe::Allow => Observable::Allow,
        raw::Observe::RateLimit => Observable::RateLimit,
        raw::Observe::Shape => Observable::Shape,
        raw::Observe::Signature => Observable::Signature,
        raw::Observe::Duplicates => Observable::Duplicates,
    }
}
