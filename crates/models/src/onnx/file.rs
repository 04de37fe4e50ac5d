//! An ONNX file: what goes in, what comes out, and what it is made of. Nothing is computed here.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream_core::{Error, Result, ResultExt};
use sha2::{Digest, Sha256};
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::dimension::Value as DimensionValue;
use tract_onnx::pb::type_proto::Value as TypeValue;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, ValueInfoProto};
use tract_onnx::tract_hir::internal::Framework;

use super::tensor::Kind;

/// A file that was read.
pub(super) struct OnnxFile {
    pub(super) path: PathBuf,
    pub(super) proto: ModelProto,
    /// SHA-256 of the file. Weights that lie beside it (external data) are not part of it.
    pub(super) sha256: [u8; 32],
    pub(super) inputs: Vec<Port>,
    pub(super) outputs: Vec<Output>,
}

/// A named tensor at the border of the graph.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Port {
    pub(super) name: String,
    /// `None`: of a type that neither goes in nor comes out here.
    pub(super) kind: Option<Kind>,
    /// `None`: the file says nothing. In it, `None` is a dimension that is open.
    pub(super) shape: Option<Vec<Option<usize>>>,
}

/// An output, with what the graph tells about its meaning.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Output {
    pub(super) port: Port,
    /// The tensor to compute for it. A `ZipMap`, which pairs scores with labels, is cut off: its input is taken.
    pub(super) tensor: String,
    /// The labels of its columns, where the operator that makes it names them.
    pub(super) labels: Vec<Arc<str>>,
    /// The operator that makes it gives probabilities.
    pub(super) is_probability: bool,
}

impl OnnxFile {
    /// Reads a file.
    ///
    /// # Errors
    /// `Environment`: it can't be read. `Corruption`: it is no ONNX file, or is cut off.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        let bytes = std::fs::read(path).doing(|| format!("read the model {shown}"))?;
        let sha256 = Sha256::digest(&bytes).into();
        let broken = |why: String| Error::corruption(format!("{shown} is no complete ONNX file: {why}"));
        let proto = tract_onnx::onnx().proto_model_for_read(&mut &bytes[..]).map_err(|e| broken(reason(&e)))?;
        let graph = proto.graph.as_ref().filter(|graph| !graph.output.is_empty());
        let graph = graph.ok_or_else(|| broken("it has no graph with outputs".to_owned()))?;
        // Declarations stand at the end of a file: of what is cut off, they are missed first.
        let domain = |domain: &str| if domain == "ai.onnx" { String::new() } else { domain.to_owned() };
        let declared: HashSet<String> = proto.opset_import.iter().map(|opset| domain(&opset.domain)).collect();
        if let Some(node) = graph.node.iter().find(|node| !declared.contains(&domain(&node.domain))) {
            let (name, operator) = (node_name(node), &node.op_type);
            let domain = if node.domain.is_empty() { "ai.onnx" } else { &node.domain };
            return Err(broken(format!("node `{name}` ({operator}) is of the domain {domain}, which is not declared")));
        }
        let weights: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
        let inputs = graph.input.iter().filter(|input| !weights.contains(input.name.as_str())).map(port).collect();
        let makers = makers(graph);
        let outputs = graph.output.iter().map(|output| describe(output, &makers)).collect();
        Ok(Self { path: path.to_owned(), inputs, outputs, sha256, proto })
    }

    /// The file with only what the tensors `wanted` need; they become its outputs.
    ///
    /// # Errors
    /// `Corruption`: a node reads a tensor that nothing makes.
    pub(super) fn reduced(&self, wanted: &[&str]) -> Result<ModelProto> {
        let mut proto = self.proto.clone();
        let Some(graph) = proto.graph.as_mut() else { return Err(Error::bug("the graph is gone")) };
        let makers = makers(graph);
        let outer: HashSet<&str> = graph.input.iter().map(|input| input.name.as_str()).chain(stored(graph)).collect();
        let (mut needed, mut open) = (BTreeSet::new(), wanted.to_vec());
        while let Some(tensor) = open.pop() {
            let Some(&node) = makers.get(tensor) else {
                if outer.contains(tensor) {
                    continue;
                }
                let path = self.path.display();
                return Err(Error::corruption(format!("{path}: nothing in the graph makes the tensor `{tensor}`")));
            };
            if needed.insert(std::ptr::from_ref(node) as usize) {
                open.extend(reads(node));
            }
        }
        let is_needed: Vec<bool> =
            graph.node.iter().map(|node| needed.contains(&(std::ptr::from_ref(node) as usize))).collect();
        let outputs = wanted.iter().map(|name| ValueInfoProto { name: (*name).to_owned(), ..Default::default() });
        let outputs = outputs.collect();
        let mut is_needed = is_needed.into_iter();
        graph.node.retain(|_| is_needed.next().unwrap_or(false));
        graph.output = outputs;
        Ok(proto)
    }
}

/// The operators of a graph that are not in `known`, each with its nodes: `SVMRegressor (ai.onnx.ml) at node "head"`.
pub(super) fn unknown_operators(proto: &ModelProto, is_known: &dyn Fn(&str) -> bool) -> Vec<String> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut graphs: Vec<&GraphProto> = proto.graph.iter().collect();
    while let Some(graph) = graphs.pop() {
        for node in &graph.node {
            graphs.extend(node.attribute.iter().filter_map(|attribute| attribute.g.as_ref()));
            let is_own = ["", "ai.onnx", "ai.onnx.ml", "com.microsoft"].contains(&node.domain.as_str());
            if is_own && is_known(&node.op_type) {
                continue;
            }
            let operator = match node.domain.as_str() {
                "" | "ai.onnx" => node.op_type.clone(),
                domain => format!("{} ({domain})", node.op_type),
            };
            found.entry(operator).or_default().push(format!("{:?}", node_name(node)));
        }
    }
    found
        .into_iter()
        .map(|(operator, nodes)| {
            let rest = if nodes.len() > 3 { format!(" and {} more", nodes.len() - 3) } else { String::new() };
            let plural = if nodes.len() > 1 { "nodes" } else { "node" };
            format!("{operator} at {plural} {}{rest}", nodes[..nodes.len().min(3)].join(", "))
        })
        .collect()
}

/// A node's name, or that of its first output.
fn node_name(node: &NodeProto) -> &str {
    if node.name.is_empty() { node.output.first().map_or("", String::as_str) } else { &node.name }
}

/// An error and its causes on one line.
pub(super) fn reason(error: &tract_onnx::tract_hir::internal::TractError) -> String {
    let text = format!("{error:#}").replace('\n', " ");
    match text.char_indices().nth(600) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn makers(graph: &GraphProto) -> HashMap<&str, &NodeProto> {
    graph.node.iter().flat_map(|node| node.output.iter().map(move |output| (output.as_str(), node))).collect()
}

/// The names of the tensors that are stored in the file.
fn stored(graph: &GraphProto) -> impl Iterator<Item = &str> {
    let sparse = graph.sparse_initializer.iter().filter_map(|tensor| tensor.values.as_ref());
    graph.initializer.iter().chain(sparse).map(|tensor| tensor.name.as_str())
}

/// The tensors that a node reads; graphs inside of it read those of the graph around them.
fn reads(node: &NodeProto) -> Vec<&str> {
    let mut names: Vec<&str> = node.input.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
    for graph in node.attribute.iter().filter_map(|attribute| attribute.g.as_ref()) {
        let own: HashSet<&str> = makers(graph)
            .into_keys()
            .chain(stored(graph))
            .chain(graph.input.iter().map(|input| input.name.as_str()))
            .collect();
        let inner = graph.node.iter().flat_map(reads).chain(graph.output.iter().map(|output| output.name.as_str()));
        names.extend(inner.filter(|name| !own.contains(name)));
    }
    names
}

fn port(info: &ValueInfoProto) -> Port {
    let tensor = info.r#type.as_ref().and_then(|kind| kind.value.as_ref());
    let Some(TypeValue::TensorType(tensor)) = tensor else {
        return Port { name: info.name.clone(), kind: None, shape: None };
    };
    let kind = match DataType::try_from(tensor.elem_type) {
        Ok(DataType::Float) => Some(Kind::F32),
        Ok(DataType::Double) => Some(Kind::F64),
        Ok(DataType::Int64) => Some(Kind::I64),
        Ok(DataType::Int32) => Some(Kind::I32),
        Ok(DataType::Bool) => Some(Kind::Bool),
        Ok(DataType::String) => Some(Kind::Text),
        _ => None,
    };
    let shape = tensor.shape.as_ref().map(|shape| {
        let dimension = |value: &Option<DimensionValue>| match value {
            Some(DimensionValue::DimValue(size)) => usize::try_from(*size).ok().filter(|&size| size > 0),
            _ => None,
        };
        shape.dim.iter().map(|dim| dimension(&dim.value)).collect()
    });
    Port { name: info.name.clone(), kind, shape }
}

fn describe(info: &ValueInfoProto, makers: &HashMap<&str, &NodeProto>) -> Output {
    let mut output = Output { port: port(info), tensor: info.name.clone(), labels: Vec::new(), is_probability: false };
    let mut at = info.name.as_str();
    // A walk back over operators that leave the numbers as they are; bounded, as a broken file may hold a circle.
    for _ in 0..32 {
        let Some(node) = makers.get(at) else { break };
        let Some(source) = node.input.first() else { break };
        match node.op_type.as_str() {
            "ZipMap" => {
                output.tensor = source.clone();
                output.labels = class_labels(node);
                output.is_probability = true;
                output.port.kind = Some(Kind::F32);
                output.port.shape = Some(vec![None, Some(output.labels.len()).filter(|&width| width > 0)]);
            }
            "Identity" | "Cast" | "Reshape" | "Squeeze" | "Flatten" => {}
            "Normalizer" => output.is_probability = true,
            "TreeEnsembleClassifier" | "LinearClassifier" | "SVMClassifier" => {
                // The first output of these is the label that wins, the second the scores.
                if node.output.first().map(String::as_str) != Some(at) {
                    output.is_probability = true;
                    if output.labels.is_empty() {
                        output.labels = class_labels(node);
                    }
                } else {
                    output.labels = class_labels(node);
                }
                break;
            }
            "Softmax" | "Sigmoid" => {
                output.is_probability = true;
                break;
            }
            _ => break,
        }
        at = source;
    }
    output
}

/// The labels that an operator names in its attributes.
fn class_labels(node: &NodeProto) -> Vec<Arc<str>> {
    let named = |name: &str| node.attribute.iter().find(|attribute| attribute.name == name);
    for name in ["classlabels_strings", "classlabels_int64s", "classlabels_ints"] {
        let Some(attribute) = named(name) else { continue };
        if !attribute.strings.is_empty() {
            return attribute.strings.iter().map(|label| String::from_utf8_lossy(label).into()).collect();
        }
        if !attribute.ints.is_empty() {
            return attribute.ints.iter().map(|label| label.to_string().into()).collect();
        }
    }
    Vec::new()
}
