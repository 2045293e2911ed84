//! The custom resource definitions as they are installed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;
use serde_json::json;

use crate::columns::{self, Column};

/// The definitions of the four kinds.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    [
        (crate::MqCluster::crd(), columns::CLUSTER),
        (crate::MqTopic::crd(), columns::TOPIC),
        (crate::MqProducerConfig::crd(), columns::PRODUCER_CONFIG),
        (crate::MqConsumerGroup::crd(), columns::CONSUMER_GROUP),
    ]
    .map(|(crd, columns)| finish(crd, columns))
    .into()
}

fn finish(mut crd: CustomResourceDefinition, columns: &[Column]) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        version.additional_printer_columns = Some(columns::with_condition(columns));
        let Some(root) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) else {
            continue;
        };
        not_nullable(root);
        if let Some(status) = root.properties.as_mut().and_then(|properties| properties.get_mut("status")) {
            status.default = Some(pending());
        }
    }
    crd
}

/// The status of an object that no operator has seen yet: without it, tools that know kstatus would take the object
/// for healthy while no operator runs.
fn pending() -> JSON {
    JSON(json!({"conditions": [{
        "type": crate::conditions::READY,
        "status": "Unknown",
        "reason": "Pending",
        "message": "No operator has looked at this object yet",
        "lastTransitionTime": "1970-01-01T00:00:00Z",
    }]}))
}

/// Makes the API server drop `field: null` like an absent field, which is what it means; CEL would see it otherwise.
fn not_nullable(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    for property in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        not_nullable(property);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        not_nullable(values);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        not_nullable(items);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_kind_has_a_definition() {
        let kinds: Vec<_> = super::definitions().into_iter().map(|crd| crd.spec.names.kind).collect();
        assert_eq!(kinds, ["MqCluster", "MqTopic", "MqProducerConfig", "MqConsumerGroup"]);
    }
}
