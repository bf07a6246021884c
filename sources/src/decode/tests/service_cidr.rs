//! ServiceCIDRs.

use rulec_compiler::object::Object;

use super::{only, problems, yaml};

const HEAD: &str = "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\n";

fn cidrs(spec: &str) -> Vec<String> {
    let object = only(&format!("{HEAD}metadata: {{name: kubernetes}}\nspec: {spec}\n"));
    let Object::ServiceCidr(cidr) = object else { panic!("{object:?}") };
    assert_eq!(cidr.name.as_str(), "kubernetes");
    cidr.cidrs.iter().map(ToString::to_string).collect()
}

#[test]
fn ranges_are_masked_and_sorted() {
    assert_eq!(
        cidrs("{cidrs: ['fd00:90::1/108', 10.90.3.0/16, 10.90.0.0/16]}"),
        ["10.90.0.0/16", "fd00:90::/108"]
    );
    assert_eq!(cidrs("{}"), [""; 0]);
}

#[test]
fn an_invalid_range_is_an_error_of_the_object() {
    let decoded = yaml(&format!("{HEAD}metadata: {{name: x}}\nspec: {{cidrs: [10.90.0.0/33]}}\n"));
    assert_eq!(
        problems(&decoded),
        ["web.yaml:4:16: ServiceCIDR x: spec.cidrs[0]: \"10.90.0.0/33\" is not a range"]
    );
    let keys: Vec<String> = decoded.broken.iter().map(ToString::to_string).collect();
    assert_eq!(keys, ["ServiceCIDR x"]);
}

#[test]
fn a_service_cidr_needs_a_name_and_has_no_namespace() {
    let decoded = yaml(&format!("{HEAD}metadata: {{}}\n"));
    assert!(decoded.nameless);
    let object = only(&format!("{HEAD}metadata: {{name: x, namespace: y}}\n"));
    assert_eq!(object.key().to_string(), "ServiceCIDR x");
}
