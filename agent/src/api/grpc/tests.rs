//! Calls by the generated client, answered by real models.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Request as HttpRequest, StatusCode};
use futures_util::{StreamExt, stream};
use hyper_util::rt::{TokioExecutor, TokioIo};
use muster_proto::id::Digest;
use tokio::net::TcpStream;
use tonic::codec::CompressionEncoding;
use tonic::{Code, Request};
use tower::ServiceExt;

use super::proto::grpc_inference_service_client::GrpcInferenceServiceClient as Client;
use super::proto::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use super::proto::*;
use crate::api::tests::support::*;
use crate::api::{End, Exposure, Limits, Server, Work, router};

fn client(device: &Device) -> Client<axum::Router> {
    let limit = 64 << 20;
    Client::new(router(&device.api, device.exposure)).max_decoding_message_size(limit).max_encoding_message_size(limit)
}

fn image(shape: &[i64]) -> InferInputTensor {
    InferInputTensor { name: "image".into(), datatype: "FP32".into(), shape: shape.to_vec(), ..Default::default() }
}

fn raw() -> ModelInferRequest {
    ModelInferRequest {
        model_name: "digits".into(),
        inputs: vec![image(&[1, 1, 8, 8])],
        raw_input_contents: vec![bytes_of(&seven().0).into()],
        ..Default::default()
    }
}

fn typed() -> ModelInferRequest {
    let contents = InferTensorContents { fp32_contents: seven().0, ..Default::default() };
    let inputs = vec![InferInputTensor { contents: Some(contents), ..image(&[1, 1, 8, 8]) }];
    ModelInferRequest { inputs, raw_input_contents: Vec::new(), ..raw() }
}

#[tokio::test]
async fn raw_is_answered_raw_and_typed_typed() {
    let device = Device::digits();
    let answer = client(&device).model_infer(ModelInferRequest { id: "a".into(), ..raw() }).await.expect("answered");
    assert_eq!(answer.metadata().get("muster-model-version").expect("a version"), "2");
    let answer = answer.into_inner();
    assert_eq!((answer.model_name.as_str(), answer.model_version.as_str(), answer.id.as_str()), ("digits", "2", "a"));
    assert_near(&floats_of(&answer.raw_output_contents[0]), &seven().1);
    assert!(answer.outputs[0].contents.is_none() && answer.outputs[0].shape == [1, 10]);
    let digest = Digest::of(b"vision/digits 2").to_string();
    assert_eq!(answer.parameters["muster_digest"], super::response::text(digest));

    let answer = client(&device).model_infer(typed()).await.expect("answered").into_inner();
    assert!(answer.raw_output_contents.is_empty() && !answer.id.is_empty());
    assert_near(&answer.outputs[0].contents.as_ref().expect("typed").fp32_contents, &seven().1);
}

#[tokio::test]
async fn mistakes_have_codes_and_sentences() {
    let device = Device::digits();
    let with = |change: &dyn Fn(&mut ModelInferRequest)| {
        let mut request = raw();
        change(&mut request);
        request
    };
    let region = |name: &str| (name.to_owned(), super::response::text("x".into()));
    let table = [
        (with(&|r| r.model_name = "letters".into()), Code::NotFound, "letters"),
        (with(&|r| r.model_version = "7".into()), Code::NotFound, "version"),
        (with(&|r| r.inputs[0].name = "picture".into()), Code::InvalidArgument, "unexpected inference input 'picture'"),
        (with(&|r| r.inputs[0].datatype = "FP64".into()), Code::InvalidArgument, "datatype FP32, got FP64"),
        (with(&|r| r.inputs[0].shape = vec![1, 64]), Code::InvalidArgument, "[N, 1, 8, 8]"),
        (with(&|r| r.inputs[0].shape[0] = 2), Code::InvalidArgument, "needs 512 bytes"),
        (with(&|r| r.inputs[0].shape[0] = -1), Code::InvalidArgument, "negative size"),
        (with(&|r| r.inputs[0].shape = vec![i64::MAX; 3]), Code::InvalidArgument, "too large"),
        (with(&|r| r.inputs[0].shape = vec![1; 17]), Code::InvalidArgument, "17 dimensions"),
        (
            with(&|r| r.inputs.push(image(&[1]))),
            Code::InvalidArgument,
            "for all 2 inputs of model 'digits' or for none, got 1",
        ),
        (
            with(&|r| r.inputs[0].contents = Some(Default::default())),
            Code::InvalidArgument,
            "contents field must not be specified when using raw_input_contents for 'image' for model 'digits'",
        ),
        (with(&|r| r.raw_input_contents.clear()), Code::InvalidArgument, "neither contents nor raw_input_contents"),
        (
            with(&|r| (r.inputs, r.raw_input_contents) = Default::default()),
            Code::InvalidArgument,
            "expected input 'image'",
        ),
        (
            with(&|r| r.outputs.push(InferRequestedOutputTensor { name: "scores".into(), ..Default::default() })),
            Code::InvalidArgument,
            "scores",
        ),
        (
            with(&|r| r.inputs[0].parameters.extend([region("shared_memory_region")])),
            Code::Unimplemented,
            "shared memory",
        ),
        (with(&|r| r.parameters.extend([region("timeout")])), Code::InvalidArgument, "'timeout'"),
    ];
    for (request, code, words) in table {
        let status = client(&device).model_infer(request).await.expect_err(words);
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(words), "{status}");
    }
}

#[tokio::test]
async fn nothing_ready_is_unavailable_and_late_is_late() {
    let device = Device::digits();
    let mut late = Request::new(raw());
    late.set_timeout(Duration::ZERO);
    assert_eq!(client(&device).model_infer(late).await.expect_err("late").code(), Code::DeadlineExceeded);
    device.slots.clear(&slot("digits"));
    assert!(!client(&device).server_ready(ServerReadyRequest {}).await.expect("answered").into_inner().ready);
    let ready = ModelReadyRequest { name: "digits".into(), ..Default::default() };
    assert!(!client(&device).model_ready(ready).await.expect("answered").into_inner().ready);

    // One thread that is busy, and room for nobody.
    let device = Device::with([("digits", digits_model(2))], 0, Limits::default(), |api| api);
    assert_eq!(client(&device).model_infer(raw()).await.expect_err("full").code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn large_and_packed_messages_are_bounded() {
    let limits = Limits { body: 128 << 10, ..Limits::default() };
    let device = Device::with([("digits", digits_model(2))], 16, limits, |api| api);
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Deflate] {
        let mut packing = client(&device).send_compressed(encoding).accept_compressed(encoding);
        let answer = packing.model_infer(raw()).await.expect("answered").into_inner();
        assert_near(&floats_of(&answer.raw_output_contents[0]), &seven().1);
        // A small message that unpacks to a large one.
        let large = ModelInferRequest { raw_input_contents: vec![Bytes::from(vec![0; 1 << 20])], ..raw() };
        assert_eq!(packing.model_infer(large).await.expect_err("large").code(), Code::ResourceExhausted);
    }
    let large = ModelInferRequest { raw_input_contents: vec![Bytes::from(vec![0; 1 << 20])], ..raw() };
    assert_eq!(client(&device).model_infer(large).await.expect_err("large").code(), Code::ResourceExhausted);
    // Of two bytes each, and a hundred times that in memory.
    let many = ModelInferRequest { inputs: vec![InferInputTensor::default(); 20_000], ..Default::default() };
    assert_eq!(client(&device).model_infer(many).await.expect_err("many").code(), Code::ResourceExhausted);
    let long = ModelReadyRequest { name: "x".repeat(70_000), ..Default::default() };
    assert_eq!(client(&device).model_ready(long).await.expect_err("long").code(), Code::ResourceExhausted);
}

/// The status of a call with this body.
async fn status_of(device: &Device, headers: &[(&str, &str)], body: &[u8]) -> (StatusCode, String, String) {
    let path = "/inference.GRPCInferenceService/ModelInfer";
    let request = headers.iter().fold(HttpRequest::post(path), |request, (name, value)| request.header(*name, *value));
    let response = router(&device.api, device.exposure)
        .oneshot(request.body(Body::from(body.to_vec())).expect("a request"))
        .await
        .expect("an answer");
    let text = |name: &str| response.headers().get(name).map_or("", |value| value.to_str().expect("text")).to_owned();
    (response.status(), text("grpc-status"), text("grpc-message"))
}

#[tokio::test]
async fn bodies_that_are_no_messages_are_refused() {
    let device = Device::digits();
    let grpc = ("content-type", "application/grpc");
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a [u8], Code, &'a str);
    let table: [Case; 8] = [
        (&[grpc], b"\0\0\0\0\x05ab", Code::InvalidArgument, "broke%20off"),
        (&[grpc], b"\0\0", Code::InvalidArgument, "broke%20off"),
        (&[grpc], b"\0\xff\xff\xff\xff", Code::ResourceExhausted, "limit"),
        (&[grpc], b"\x02\0\0\0\0", Code::InvalidArgument, "begins%20with%202"),
        (&[grpc], b"\x01\0\0\0\0", Code::InvalidArgument, "does%20not%20say%20how"),
        (&[grpc, ("grpc-encoding", "gzip")], b"\x01\0\0\0\x02xx", Code::InvalidArgument, "unpacked"),
        (&[grpc, ("grpc-encoding", "br")], b"\0\0\0\0\0", Code::Unimplemented, "gzip"),
        (&[grpc], b"\0\0\0\0\x02\x2a\x09", Code::InvalidArgument, "ModelInferRequest"),
    ];
    for (headers, body, code, words) in table {
        let (status, got, message) = status_of(&device, headers, body).await;
        assert_eq!((status, got), (StatusCode::OK, (code as i32).to_string()), "{words}: {message}");
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(status_of(&device, &[], b"{}").await.0, StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test]
async fn a_streams_faults_are_their_requests_own() {
    let device = Device::digits();
    let unknown = ModelInferRequest { model_name: "letters".into(), id: "b".into(), ..raw() };
    let requests =
        [ModelInferRequest { id: "a".into(), ..raw() }, unknown, ModelInferRequest { id: "c".into(), ..typed() }];
    let answers = client(&device).model_stream_infer(stream::iter(requests)).await.expect("a stream").into_inner();
    let answers: Vec<_> = answers.map(|answer| answer.expect("an answer")).collect().await;
    let ids: Vec<_> = answers.iter().map(|a| a.infer_response.as_ref().expect("a response").id.as_str()).collect();
    assert_eq!(ids, ["a", "b", "c"]);
    let faults: Vec<_> = answers.iter().map(|a| a.error_message.contains("letters")).collect();
    assert_eq!(faults, [false, true, false], "{answers:?}");
}

#[tokio::test]
async fn halves_make_the_answer_raw() {
    let device = Device::new([("all", fixture_model("every_dtype"))]);
    let inputs = device.slots.get(&slot("all")).expect("a model").model.inputs().to_vec();
    let raw: Vec<Bytes> = inputs.iter().map(|spec| vec![0; 4 * spec.dtype.size()].into()).collect();
    let tensors = inputs.iter().map(|spec| InferInputTensor {
        name: spec.name.clone(),
        datatype: spec.dtype.oip_name().into(),
        shape: vec![2, 2],
        ..Default::default()
    });
    let request = ModelInferRequest { model_name: "all".into(), inputs: tensors.collect(), ..Default::default() };
    let answer = client(&device)
        .model_infer(ModelInferRequest { raw_input_contents: raw, ..request.clone() })
        .await
        .expect("answered")
        .into_inner();
    assert_eq!(answer.raw_output_contents.len(), answer.outputs.len());
    let empty = ModelInferRequest {
        inputs: request.inputs.into_iter().map(|input| InferInputTensor { shape: vec![0, 2], ..input }).collect(),
        ..request
    };
    // Nothing to send is neither raw nor typed; the halves decide.
    if let Ok(answer) = client(&device).model_infer(empty).await {
        assert_eq!(answer.get_ref().raw_output_contents.len(), answer.get_ref().outputs.len());
    }
}

#[tokio::test]
async fn one_listener_speaks_both() {
    let device = Device::digits();
    let mut server = Server::default();
    server
        .listen("127.0.0.1:0".parse().expect("an address"), router(&device.api, Exposure::Loopback))
        .await
        .expect("listens");
    let address = server.address().expect("an address");
    let stream = TcpStream::connect(address).await.expect("connected");
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = handshake.await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let wire = tower::service_fn(move |request: HttpRequest<tonic::body::Body>| {
        let mut sender = sender.clone();
        async move { sender.send_request(request).await }
    });
    let origin = |host: &str| format!("http://{host}").parse().expect("an origin");
    let mut grpc = Client::with_origin(wire.clone(), origin(&address.to_string()));
    assert_near(
        &floats_of(&grpc.model_infer(raw()).await.expect("answered").into_inner().raw_output_contents[0]),
        &seven().1,
    );
    let mut rebound = Client::with_origin(wire, origin("rebound.example"));
    assert_eq!(rebound.model_infer(raw()).await.expect_err("refused").code(), Code::PermissionDenied);
    let rest = tokio::task::spawn_blocking(move || {
        ureq::get(&format!("http://{address}/v2/health/ready")).call().expect("answered").status().as_u16()
    });
    assert_eq!(rest.await.expect("joined"), 200);
    server.stop().await;
    connection.await.expect("joined").expect("ended without a fault");
}

#[tokio::test]
async fn a_call_is_told_when_its_last_answer_is_made() {
    let (observer, mut told) = observer();
    let device = Device::with([("digits", digits_model(2))], 4, Limits::default(), |api| {
        api.with_observer(std::sync::Arc::clone(&observer))
    });
    let mut client = client(&device);
    client.model_infer(raw()).await.expect("answered");
    let seen = told.try_recv().expect("told");
    assert_eq!(
        (seen.end, seen.by, seen.works),
        (Some(End::Grpc(0)), Some(("digits".into(), 2)), vec![Work::Inference])
    );
    let other = ModelInferRequest { model_name: "letters".into(), ..raw() };
    client.model_infer(other).await.expect_err("unknown");
    let seen = told.try_recv().expect("told");
    assert_eq!((seen.end, seen.by, seen.works), (Some(End::Grpc(Code::NotFound.into())), None, vec![]));

    let mut answers = client.model_stream_infer(stream::iter([raw(), raw()])).await.expect("a stream").into_inner();
    answers.next().await.expect("an answer").expect("answered");
    assert!(told.try_recv().is_err(), "the stream goes on");
    assert_eq!(answers.by_ref().count().await, 1);
    drop(answers);
    let seen = told.try_recv().expect("told");
    assert_eq!(seen.path, "/inference.GRPCInferenceService/ModelStreamInfer");
    assert_eq!((seen.end, seen.works), (Some(End::Grpc(0)), vec![Work::Inference; 2]));
    client.server_live(ServerLiveRequest {}).await.expect("answered");
    assert!(told.try_recv().is_err(), "nothing was scored");
}

#[test]
fn generated_code_is_of_the_protocol_beside_it() {
    // After a change of a .proto, make `generated/` and `descriptors.bin` again, and then put its digest here.
    let table = [
        (include_str!("proto/inference.proto"), "1bd9876b9e3f65af7c415e3bae17e3dbe70ead5a9b36959bc8d24598c19b2360"),
        (include_str!("proto/health.proto"), "ab57040af78a82e2ae6e5b0beba9060f4de8a93f44dd38197607d5ffd1aa4785"),
    ];
    for (proto, digest) in table {
        assert_eq!(Digest::of(proto.as_bytes()).to_string(), digest);
    }
}
