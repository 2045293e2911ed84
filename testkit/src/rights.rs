//! What users may do at a broker that authorizes: Kafka's ACLs.

use anyhow::{Context, Result, ensure};
use kafka_protocol::messages::create_acls_request::AclCreation;
use kafka_protocol::messages::delete_acls_request::DeleteAclsFilter;
use kafka_protocol::messages::{ApiKey, CreateAclsRequest, CreateAclsResponse, DeleteAclsRequest, DeleteAclsResponse};
use kafka_protocol::protocol::StrBytes;

use crate::{Broker, wire};

const VERSION: i16 = 3;
const ALLOW: i8 = 3;
const EVERY_HOST: &str = "*";

/// Lines for [`OwnBroker::configured`](crate::OwnBroker::configured): users may do what was granted to them, and nothing else. Who comes by
/// the plain listener, as tests and the broker itself do, may do everything.
pub const AUTHORIZING: &[&str] =
    &["authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer", "super.users=User:ANONYMOUS"];

/// What a right is about.
#[derive(Clone, Debug)]
pub enum Resource {
    Topic(String),
    /// All topics whose names begin so.
    Topics(String),
    Group(String),
    Cluster,
}

impl Resource {
    /// Kafka's numbers of its kind and of how its name is meant, and its name.
    fn parts(&self) -> (i8, i8, &str) {
        const LITERAL: i8 = 3;
        const PREFIXED: i8 = 4;
        match self {
            Self::Topic(name) => (2, LITERAL, name),
            Self::Topics(prefix) => (2, PREFIXED, prefix),
            Self::Group(name) => (3, LITERAL, name),
            Self::Cluster => (4, LITERAL, "kafka-cluster"),
        }
    }
}

/// What a right allows; the numbers are Kafka's.
#[derive(Clone, Copy, Debug)]
#[repr(i8)]
pub enum Operation {
    Read = 3,
    Create = 5,
    Delete = 6,
    Alter = 7,
    Describe = 8,
    DescribeConfigs = 10,
    AlterConfigs = 11,
}

impl Broker {
    /// Grants the user this right.
    ///
    /// # Errors
    /// The broker does not answer, or does not authorize.
    pub async fn grant(&self, username: &str, resource: &Resource, operation: Operation) -> Result<()> {
        let (kind, pattern, name) = resource.parts();
        let right = AclCreation::default()
            .with_resource_type(kind)
            .with_resource_pattern_type(pattern)
            .with_resource_name(StrBytes::from_string(name.to_owned()))
            .with_principal(principal(username))
            .with_host(StrBytes::from_static_str(EVERY_HOST))
            .with_operation(operation as i8)
            .with_permission_type(ALLOW);
        let request = CreateAclsRequest::default().with_creations(vec![right]);
        let attempt = || format!("granting {username} {operation:?} on {resource:?}");
        let api = (ApiKey::CreateAcls, VERSION);
        let answer: CreateAclsResponse =
            wire::ask(self.bootstrap(), api, &request, |_| ()).await.with_context(attempt)?;
        for result in answer.results {
            ensure!(result.error_code == 0, "{}: the broker refuses: {:?}", attempt(), result.error_message);
        }
        Ok(())
    }

    /// Takes it away again.
    ///
    /// # Errors
    /// See [`Self::grant`]; also if it had not been granted.
    pub async fn revoke(&self, username: &str, resource: &Resource, operation: Operation) -> Result<()> {
        let (kind, pattern, name) = resource.parts();
        let right = DeleteAclsFilter::default()
            .with_resource_type_filter(kind)
            .with_pattern_type_filter(pattern)
            .with_resource_name_filter(Some(StrBytes::from_string(name.to_owned())))
            .with_principal_filter(Some(principal(username)))
            .with_host_filter(Some(StrBytes::from_static_str(EVERY_HOST)))
            .with_operation(operation as i8)
            .with_permission_type(ALLOW);
        let request = DeleteAclsRequest::default().with_filters(vec![right]);
        let attempt = || format!("taking {operation:?} on {resource:?} away from {username}");
        let api = (ApiKey::DeleteAcls, VERSION);
        let answer: DeleteAclsResponse =
            wire::ask(self.bootstrap(), api, &request, |_| ()).await.with_context(attempt)?;
        for result in answer.filter_results {
            ensure!(result.error_code == 0, "{}: the broker refuses: {:?}", attempt(), result.error_message);
            ensure!(result.matching_acls.len() == 1, "{}: it was not granted", attempt());
        }
        Ok(())
    }
}

fn principal(username: &str) -> StrBytes {
    StrBytes::from_string(format!("User:{username}"))
}
