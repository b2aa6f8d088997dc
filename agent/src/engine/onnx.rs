//! What an ONNX file declares of itself, read from its protobuf before any engine interprets it. It
//! knows nothing of plans or recipes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;

use tract_onnx::pb::tensor_proto::{DataLocation, DataType};
use tract_onnx::pb::tensor_shape_proto::dimension::Value;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, type_proto};
use tract_onnx::prelude::Framework;

use super::guard::guard;
use super::model::{Error, Node};

/// What a plan cannot tell of its file.
#[derive(Debug, Clone)]
pub(super) struct Declaration {
    /// The inputs that a caller gives, in order: those without an initial value in the file.
    pub(super) inputs: Vec<Declared>,
    /// The outputs, in order.
    pub(super) outputs: Vec<Declared>,
    /// How many bytes all stored tensors take.
    pub(super) stored_bytes: u64,
}

/// A declared input or output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Declared {
    /// Its name.
    pub(super) name: String,
    /// Its dimensions; none where not even the rank is declared.
    pub(super) shape: Option<Vec<DeclaredDim>>,
}

/// A declared dimension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DeclaredDim {
    /// A fixed size.
    Fixed(u64),
    /// Any size, under a name.
    Named(String),
    /// Any size.
    Unnamed,
}

impl DeclaredDim {
    /// The fixed size, if it is one.
    pub(super) fn fixed(&self) -> Option<u64> {
        if let DeclaredDim::Fixed(size) = self { Some(*size) } else { None }
    }
}

impl std::fmt::Display for DeclaredDim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DeclaredDim::Fixed(size) => write!(f, "{size}"),
            DeclaredDim::Named(name) => f.write_str(name),
            DeclaredDim::Unnamed => f.write_str("?"),
        }
    }
}

/// Reads the protobuf of the ONNX file at `path`. Tensors in external files are not read yet.
pub(super) fn read(path: &Path) -> Result<ModelProto, Error> {
    let metadata = File::open(path).and_then(|file| file.metadata());
    let metadata = metadata.map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let invalid = |reason: &str| Error::NotOnnx { path: path.to_owned(), reason: reason.to_owned() };
    if !metadata.is_file() || metadata.len() == 0 {
        return Err(invalid("it is empty or no file"));
    }
    let proto = guard(|| tract_onnx::onnx().proto_model_for_path(path)).map_err(|fault| invalid(fault.reason()))?;
    match &proto.graph {
        Some(graph) if !graph.output.is_empty() => Ok(proto),
        _ => Err(invalid("it holds no graph with outputs")),
    }
}

/// What `proto` declares.
pub(super) fn declaration(proto: &ModelProto) -> Declaration {
    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    if let Some(graph) = &proto.graph {
        let initialised: BTreeSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
        let given = graph.input.iter().filter(|input| !initialised.contains(input.name.as_str()));
        inputs.extend(given.map(declared));
        outputs.extend(graph.output.iter().map(declared));
    }
    Declaration { inputs, outputs, stored_bytes: stored_bytes(proto) }
}

fn declared(info: &ValueInfoProto) -> Declared {
    let value = info.r#type.as_ref().and_then(|kind| kind.value.as_ref());
    let shape = value.and_then(|type_proto::Value::TensorType(tensor)| tensor.shape.as_ref());
    let dims = shape.map(|shape| {
        let dim = |value: &Option<Value>| match value {
            Some(Value::DimValue(size)) if *size >= 0 => DeclaredDim::Fixed(*size as u64),
            Some(Value::DimParam(name)) if !name.is_empty() && name != "?" => DeclaredDim::Named(name.clone()),
            _ => DeclaredDim::Unnamed,
        };
        shape.dim.iter().map(|d| dim(&d.value)).collect()
    });
    Declared { name: info.name.clone(), shape: dims }
}

/// Whether the file declares shapes of inner values.
pub(super) fn has_value_info(proto: &ModelProto) -> bool {
    graphs(proto).iter().any(|graph| !graph.value_info.is_empty())
}

/// How often each operator occurs, inner graphs included; operators of other domains carry theirs.
pub(super) fn operators(proto: &ModelProto) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for node in graphs(proto).iter().flat_map(|graph| &graph.node) {
        *counts.entry(operator(node)).or_insert(0) += 1;
    }
    counts
}

/// How many trained numbers the file holds: the elements of all stored tensors but 64-bit whole
/// numbers, which exporters use for shapes and indices.
pub(super) fn parameters(proto: &ModelProto) -> u64 {
    let trained = tensors(proto).filter(|tensor| tensor.data_type != DataType::Int64 as i32);
    trained.fold(0, |sum, tensor| sum.saturating_add(elements(tensor)))
}

/// How many bytes all stored tensors take, in this file and in external ones.
fn stored_bytes(proto: &ModelProto) -> u64 {
    let element = |tensor: &TensorProto| match DataType::try_from(tensor.data_type) {
        Ok(DataType::Double | DataType::Int64 | DataType::Uint64) => 8,
        Ok(DataType::Float16 | DataType::Bfloat16 | DataType::Int16 | DataType::Uint16) => 2,
        Ok(DataType::Int8 | DataType::Uint8 | DataType::Bool) => 1,
        _ => 4,
    };
    tensors(proto).fold(0, |sum, tensor| sum.saturating_add(elements(tensor).saturating_mul(element(tensor))))
}

fn elements(tensor: &TensorProto) -> u64 {
    tensor.dims.iter().fold(1u64, |product, dim| product.saturating_mul(u64::try_from(*dim).unwrap_or(0)))
}

/// The files beside the model file that hold tensors of it, as it names them.
pub(super) fn external_files(proto: &ModelProto) -> BTreeSet<String> {
    let external = tensors(proto).filter(|tensor| tensor.data_location == Some(DataLocation::External as i32));
    external
        .flat_map(|tensor| &tensor.external_data)
        .filter(|entry| entry.key == "location")
        .map(|entry| entry.value.clone())
        .collect()
}

/// The first node whose operator tract does not know.
pub(super) fn unknown_operator(proto: &ModelProto) -> Option<Node> {
    let known = tract_onnx::onnx().op_register;
    let graphs = graphs(proto);
    let mut nodes = graphs.iter().flat_map(|graph| &graph.node);
    nodes.find(|node| !known.0.contains_key(&node.op_type)).map(named)
}

/// The node that tract calls `name`. While it optimises, tract adds suffixes to names.
pub(super) fn find_node(proto: &ModelProto, name: &str) -> Option<Node> {
    let graphs = graphs(proto);
    let nodes = graphs.iter().flat_map(|graph| &graph.node);
    let of_name = |node: &&NodeProto| {
        let label = label(node);
        !label.is_empty() && name.strip_prefix(label).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    nodes.filter(of_name).max_by_key(|node| label(node).len()).map(named)
}

fn named(node: &NodeProto) -> Node {
    Node { name: label(node).to_owned(), operator: operator(node) }
}

/// The name that tract gives a node: its own, or else its first output's.
fn label(node: &NodeProto) -> &str {
    if node.name.is_empty() { node.output.first().map_or("", String::as_str) } else { &node.name }
}

fn operator(node: &NodeProto) -> String {
    match node.domain.as_str() {
        "" | "ai.onnx" => node.op_type.clone(),
        domain => format!("{domain}.{}", node.op_type),
    }
}

/// The graph and all graphs inside its nodes. Their depth is bounded by the protobuf decoder (100).
fn graphs(proto: &ModelProto) -> Vec<&GraphProto> {
    let mut found: Vec<&GraphProto> = proto.graph.iter().collect();
    let mut next = 0;
    while let Some(graph) = found.get(next) {
        let attributes = graph.node.iter().flat_map(|node| &node.attribute);
        let inner: Vec<&GraphProto> = attributes.flat_map(|a| a.g.iter().chain(&a.graphs)).collect();
        found.extend(inner);
        next += 1;
    }
    found
}

/// All stored tensors: initial values and those in attributes.
fn tensors(proto: &ModelProto) -> impl Iterator<Item = &TensorProto> {
    graphs(proto).into_iter().flat_map(|graph| {
        let attributes = graph.node.iter().flat_map(|node| &node.attribute);
        graph.initializer.iter().chain(attributes.flat_map(|a| a.t.iter().chain(&a.tensors)))
    })
}
