//! The address at which an Ingress of ours is served, in its status: that of the gateway's Service.

use fairway_kit::watch::ObjectKey;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::{
    Ingress, IngressLoadBalancerIngress, IngressLoadBalancerStatus, IngressStatus,
};

use crate::metadata::annotation;
use crate::plan::{Plan, Write};
use crate::world::World;

/// `spec.controller` of our IngressClass.
pub const INGRESS_CONTROLLER: &str = "fairway.dev/ingress";
/// How a class was named before `spec.ingressClassName`; still in many manifests.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// Writes the addresses of the gateway's Service `gateway` into one Ingress of ours.
pub fn reconcile(world: &World, key: &ObjectKey, gateway: &ObjectKey) -> Plan {
    let Some(ingress) = world.ingresses.get(key).filter(|ingress| is_ours(ingress, world)) else {
        return Plan::nothing();
    };
    let wanted = world.services.get(gateway).map(|service| addresses(service)).unwrap_or_default();
    let balancer = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let present = balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or(&[]);
    if present == wanted {
        return Plan::nothing();
    }
    let ingress_list = Some(wanted).filter(|wanted| !wanted.is_empty());
    let status = IngressStatus { load_balancer: Some(IngressLoadBalancerStatus { ingress: ingress_list }) };
    Plan::writes(vec![Write::ReplaceStatus(Ingress { status: Some(status), ..(**ingress).clone() }.into())])
}

fn is_ours(ingress: &Ingress, world: &World) -> bool {
    let named = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_deref());
    let class = named.or_else(|| annotation(&ingress.metadata, CLASS_ANNOTATION));
    let class = class.and_then(|class| world.ingress_classes.get(&ObjectKey::new("", class)));
    let controller = class.and_then(|class| class.spec.as_ref()).and_then(|spec| spec.controller.as_deref());
    controller == Some(INGRESS_CONTROLLER)
}

fn addresses(service: &Service) -> Vec<IngressLoadBalancerIngress> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let entries = balancer.into_iter().flat_map(|balancer| balancer.ingress.iter().flatten());
    entries
        .map(|entry| IngressLoadBalancerIngress {
            ip: entry.ip.clone(),
            hostname: entry.hostname.clone(),
            ports: None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::world::Object;

    #[test]
    fn addresses_follow_the_gateway_for_our_class_only() {
        struct Case {
            name: &'static str,
            ingress: Value,
            want: Option<Vec<&'static str>>,
        }
        let status = |ip: &str| json!({"loadBalancer": {"ingress": [{"ip": ip}]}});
        for case in [
            Case {
                name: "ours",
                ingress: json!({"spec": {"ingressClassName": "fairway"}}),
                want: Some(vec!["10.0.0.1"]),
            },
            Case {
                name: "ours by annotation",
                ingress: json!({"metadata": {"annotations": {CLASS_ANNOTATION: "fairway"}}}),
                want: Some(vec!["10.0.0.1"]),
            },
            Case {
                name: "said already",
                ingress: json!({"spec": {"ingressClassName": "fairway"}, "status": status("10.0.0.1")}),
                want: None,
            },
            Case {
                name: "old address",
                ingress: json!({"spec": {"ingressClassName": "fairway"}, "status": status("10.0.0.9")}),
                want: Some(vec!["10.0.0.1"]),
            },
            Case { name: "another's", ingress: json!({"spec": {"ingressClassName": "nginx"}}), want: None },
            Case { name: "no class", ingress: json!({"spec": {}}), want: None },
        ] {
            let mut world = World::default();
            let (key, gateway) = (ObjectKey::new("ns", "web"), ObjectKey::new("system", "gateway"));
            let class = |name: &str, controller: &str| {
                let object = json!({"metadata": {"name": name}, "spec": {"controller": controller}});
                (ObjectKey::new("", name), Arc::new(serde_json::from_value(object).unwrap()))
            };
            world
                .ingress_classes
                .extend([class("fairway", INGRESS_CONTROLLER), class("nginx", "k8s.io/ingress-nginx")]);
            let service = json!({"metadata": {}, "status": status("10.0.0.1")});
            world.services.insert(gateway.clone(), Arc::new(serde_json::from_value(service).unwrap()));
            world.ingresses.insert(key.clone(), Arc::new(serde_json::from_value(case.ingress).unwrap()));
            let plan = reconcile(&world, &key, &gateway);
            let written = plan.writes.first().map(|write| match write {
                Write::ReplaceStatus(Object::Ingress(ingress)) => {
                    let balancer = ingress.status.clone().unwrap().load_balancer.unwrap();
                    balancer.ingress.unwrap().into_iter().filter_map(|entry| entry.ip).collect::<Vec<_>>()
                }
                other => panic!("{other:?}"),
            });
            let want = case.want.map(|want| want.into_iter().map(str::to_owned).collect());
            assert_eq!(written, want, "{}", case.name);
        }
    }
}
