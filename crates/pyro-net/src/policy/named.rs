//! The decision on a flow of which only the name is known: a proxy finds its address.

use super::decide::{denied, narrowest};
use super::{Decision, Mode, Name, Policy, Ports, Protocol, Reason, Rule, Target, Verdict, encrypted_dns};

impl Policy {
    /// Decides on a flow to `port` of `name`, wherever that is, as [`Policy::decide`] does: rules for names count
    /// alone, for there is no address that a range could hold, and `egress` allows what no rule closes.
    #[must_use]
    pub fn decide_named(&self, protocol: Protocol, name: &Name, port: u16) -> Decision {
        let is_about = |rule: &&Rule| {
            let names = match &rule.target {
                Target::Name(own) => own == name,
                Target::Under(parent) => name.is_under(parent),
                Target::Range(_) => false,
            };
            names && rule.carries(protocol, port)
        };
        if self.mode == Mode::Off {
            return denied(Reason::Off, None, None);
        }
        let closing: Vec<&Rule> = self.deny.iter().filter(is_about).collect();
        let wins = |rule: &&Rule| closing.iter().all(|closing| rule.outranks(closing));
        let allowed = |reason, rule: Option<&Rule>| Decision {
            verdict: Verdict::Allow,
            reason,
            rule: rule.cloned(),
            smallest_rule_that_would_allow: None,
        };
        if let Some(rule) = narrowest(self.allow.iter().filter(is_about).filter(wins)) {
            return allowed(Reason::Rule, Some(rule));
        }
        let own = Rule {
            protocol: Some(protocol),
            target: Target::Name(name.clone()),
            ports: if port == 0 { Ports::all() } else { Ports::one(port) },
        };
        let smallest = closing.iter().all(|closing| own.outranks(closing)).then_some(own);
        match (narrowest(closing.iter().copied()), self.mode) {
            (Some(rule), _) => denied(Reason::Rule, Some(rule.clone()), smallest),
            (None, Mode::Egress) if encrypted_dns::is_it(protocol, port, std::slice::from_ref(name)) => {
                denied(Reason::EncryptedDns, None, smallest)
            }
            (None, Mode::Egress) => allowed(Reason::Public, None),
            (None, Mode::AllowList | Mode::Off) => denied(Reason::NotListed, None, smallest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(mode: Mode, allow: &[&str], deny: &[&str]) -> Policy {
        let rules = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Policy { allow: rules(allow), deny: rules(deny), ..Policy::of(mode) }
    }

    #[test]
    fn a_name_is_decided_on_by_the_rules_for_names() {
        let decide = |policy: &Policy, name: &str, port| {
            let decision = policy.decide_named(Protocol::Tcp, &name.parse().unwrap(), port);
            (decision.is_allowed(), decision.smallest_rule_that_would_allow.map(|rule| rule.to_string()))
        };
        let told = |rule: &str| (false, Some(rule.to_owned()));
        let open =
            policy(Mode::Egress, &["ok.bad.example"], &["*.bad.example", "one.example:22", "10.0.0.0/8"]);
        assert_eq!(decide(&open, "a.example", 443), (true, None));
        assert_eq!(decide(&open, "ok.bad.example", 443), (true, None));
        assert_eq!(decide(&open, "x.bad.example", 443), told("tcp://x.bad.example:443"));
        assert_eq!(decide(&open, "one.example", 443), (true, None));
        // Nothing is narrower than the rule that closes it, but for the protocol.
        assert_eq!(decide(&open, "one.example", 22), told("tcp://one.example:22"));
        assert_eq!(decide(&open, "a.example", 853), told("tcp://a.example:853"));
        assert_eq!(decide(&open, "dns.google", 443), told("tcp://dns.google:443"));
        let list =
            policy(Mode::AllowList, &["a.example:443", "*.b.example", "10.0.0.0/8"], &["udp://x.b.example"]);
        assert_eq!(decide(&list, "a.example", 443), (true, None));
        assert_eq!(decide(&list, "a.example", 80), told("tcp://a.example:80"));
        assert_eq!(decide(&list, "x.b.example", 80), (true, None));
        assert_eq!(decide(&list, "other.example", 80), told("tcp://other.example:80"));
        assert_eq!(decide(&policy(Mode::Off, &["a.example"], &[]), "a.example", 443), (false, None));
    }
}
