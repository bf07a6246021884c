//! The identity of a rule: whether a rule in the kernel is the one that we would add.

use rulec_compiler::net::Family;
use rulec_compiler::nft::rule::Rule;
use rulec_compiler::nft::text;

use super::expressions::expressions;
use super::wire;
use crate::netlink::{Attributes, attributes};

/// The identity of a rule. The fingerprint tells what the rule was made from, but others can use it
/// as the comment of another rule; the expressions tell whether the rule can be ours at all. Only
/// the names of expressions are compared, because the kernel lists more of their content than it
/// was given and numbers registers differently. So a changed constant in a rule with an unchanged
/// comment is not noticed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Identity {
    userdata: Vec<u8>,
    expressions: Vec<Vec<u8>>,
}

impl Identity {
    /// Returns the identity of one of our rules.
    pub(super) fn of(family: Family, mark: u32, rule: &Rule) -> Self {
        let names = expressions(family, mark, rule).map(|expr| expr.name().to_bytes().to_vec());
        Self { userdata: userdata(family, mark, rule), expressions: names.collect() }
    }

    /// Returns the identity of a rule as the kernel lists it.
    pub(super) fn listed(rule: &Attributes<'_>) -> Self {
        let list = rule.clone().nested(wire::NFTA_RULE_EXPRESSIONS).into_iter().flatten();
        let name = |(_, expression)| attributes(expression).text(wire::NFTA_EXPR_NAME);
        let expressions = list.map(|expr| name(expr).unwrap_or_default().as_bytes().to_vec());
        let userdata = rule.clone().find(wire::NFTA_RULE_USERDATA).unwrap_or_default().to_vec();
        Self { userdata, expressions: expressions.collect() }
    }
}

/// Returns the user data of one of our rules: its fingerprint as a comment.
pub(super) fn userdata(family: Family, mark: u32, rule: &Rule) -> Vec<u8> {
    wire::comment(&text::fingerprint(family, mark, rule))
}
