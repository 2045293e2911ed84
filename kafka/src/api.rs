//! The requests of this crate and the versions that it speaks.

use kafka_protocol::{
    messages::{
        ApiKey, ApiVersionsRequest, ApiVersionsResponse, ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse,
        CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse,
        DeleteTopicsRequest, DeleteTopicsResponse, DescribeConfigsRequest, DescribeConfigsResponse,
        DescribeGroupsRequest, DescribeGroupsResponse, FetchRequest, FetchResponse, FindCoordinatorRequest,
        FindCoordinatorResponse, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, ListGroupsRequest,
        ListGroupsResponse, ListOffsetsRequest, ListOffsetsResponse, MetadataRequest, MetadataResponse,
        OffsetFetchRequest, OffsetFetchResponse, SaslAuthenticateRequest, SaslAuthenticateResponse,
    },
    protocol::{Decodable, Encodable, HeaderVersion, Message},
};

/// A request with the versions that this crate is written for.
///
/// Every `OLDEST` is at least the first *flexible* version (KIP-482): there all lengths are varints, which lets
/// [`crate::frame`] refuse an absurd length before memory is reserved for it.
pub(crate) trait Api: Message + Encodable + HeaderVersion {
    type Response: Message + Decodable + HeaderVersion;
    const KEY: i16;
    /// The name as Kafka's documentation and metrics spell it.
    const NAME: &'static str;
    const OLDEST: i16;
    const NEWEST: i16;
    /// Whether it changes nothing, so that it may be sent again when its answer was lost.
    const READ: bool;
}

#[cfg(any(test, fuzzing))]
pub(crate) struct Decoder {
    pub(crate) key: i16,
    pub(crate) versions: std::ops::RangeInclusive<i16>,
    pub(crate) decode: fn(bytes::Bytes, i16) -> Result<(), crate::ErrorKind>,
}

#[cfg(any(test, fuzzing))]
const fn decoder<A: Api>() -> Decoder {
    Decoder {
        key: A::KEY,
        versions: A::OLDEST..=A::NEWEST,
        decode: |frame, version| crate::frame::decode::<A::Response>(frame, version).map(drop),
    }
}

macro_rules! apis {
    ($($name:ident $request:ident $response:ident $read:literal $oldest:literal..=$newest:literal)*) => {
        $(impl Api for $request {
            type Response = $response;
            const NAME: &'static str = stringify!($name);
            const KEY: i16 = ApiKey::$name as i16;
            const OLDEST: i16 = $oldest;
            const NEWEST: i16 = $newest;
            const READ: bool = $read;
        })*

        /// A decoder for the answer to each request, with the versions that it is for.
        #[cfg(any(test, fuzzing))]
        pub(crate) const DECODERS: &[Decoder] = &[$(decoder::<$request>()),*];
    };
}

apis! {
    ApiVersions             ApiVersionsRequest             ApiVersionsResponse             true  3..=3
    SaslAuthenticate        SaslAuthenticateRequest        SaslAuthenticateResponse        true  2..=2
    Metadata                MetadataRequest                MetadataResponse                true  10..=13 // 10: topic ids
    FindCoordinator         FindCoordinatorRequest         FindCoordinatorResponse         true  4..=6   // 4: many keys
    CreateTopics            CreateTopicsRequest            CreateTopicsResponse            false 7..=7   // 7: topic ids
    DeleteTopics            DeleteTopicsRequest            DeleteTopicsResponse            false 6..=6   // 6: by id
    CreatePartitions        CreatePartitionsRequest        CreatePartitionsResponse        false 2..=3
    DescribeConfigs         DescribeConfigsRequest         DescribeConfigsResponse         true  4..=4
    IncrementalAlterConfigs IncrementalAlterConfigsRequest IncrementalAlterConfigsResponse false 1..=1
    OffsetFetch             OffsetFetchRequest             OffsetFetchResponse             true  8..=9   // 8: many groups; 10 knows topics by id only
    ListOffsets             ListOffsetsRequest             ListOffsetsResponse             true  6..=9
    Fetch                   FetchRequest                   FetchResponse                   true  12..=12 // 13 knows topics by id only
    ListGroups              ListGroupsRequest              ListGroupsResponse              true  4..=5   // 4: states
    DescribeGroups          DescribeGroupsRequest          DescribeGroupsResponse          true  5..=6
    ConsumerGroupDescribe   ConsumerGroupDescribeRequest   ConsumerGroupDescribeResponse   true  0..=1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards the memory bound: a table entry below the first flexible version would bring back 32-bit array lengths.
    #[test]
    fn every_version_is_flexible_and_known_to_the_codec() {
        fn check<A: Api>() {
            for version in A::OLDEST..=A::NEWEST {
                assert_eq!(A::header_version(version), 2, "{} {version}", A::NAME);
                assert!((A::VERSIONS.min..=A::VERSIONS.max).contains(&version), "{} {version}", A::NAME);
                assert!(
                    (A::Response::VERSIONS.min..=A::Response::VERSIONS.max).contains(&version),
                    "{} {version}",
                    A::NAME
                );
            }
        }
        check::<ApiVersionsRequest>();
        check::<SaslAuthenticateRequest>();
        check::<MetadataRequest>();
        check::<FindCoordinatorRequest>();
        check::<CreateTopicsRequest>();
        check::<DeleteTopicsRequest>();
        check::<CreatePartitionsRequest>();
        check::<DescribeConfigsRequest>();
        check::<IncrementalAlterConfigsRequest>();
        check::<OffsetFetchRequest>();
        check::<ListOffsetsRequest>();
        check::<FetchRequest>();
        check::<ListGroupsRequest>();
        check::<DescribeGroupsRequest>();
        check::<ConsumerGroupDescribeRequest>();
    }
}
