//! Making nodes, attributes and constants.

use std::collections::BTreeSet;

use burn::tensor::Tensor;

use super::proto::{
    AttributeProto, Dimension, GraphProto, NodeProto, TensorProto, TensorShapeProto,
    TensorTypeProto, TypeProto, ValueInfoProto, attribute_type, data_type,
};

/// Name of the first dimension, whose size is free.
pub(super) const BATCH: &str = "batch";

/// A graph or the body of a loop, while it is written.
#[derive(Default)]
pub(super) struct Scope {
    graph: GraphProto,
    constants: BTreeSet<String>,
    /// Prefix of the names of values and constants of this scope, which must differ from those of
    /// the scopes around it.
    prefix: String,
    made: usize,
}

impl Scope {
    pub(super) fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            ..Self::default()
        }
    }

    /// The graph with its inputs and outputs.
    pub(super) fn finish(
        mut self,
        name: &str,
        input: Vec<ValueInfoProto>,
        output: Vec<ValueInfoProto>,
    ) -> GraphProto {
        self.graph.name = Some(name.to_owned());
        self.graph.input = input;
        self.graph.output = output;
        self.graph
    }

    /// A name that no other value has.
    pub(super) fn fresh(&mut self) -> String {
        self.made += 1;
        format!("{}v{}", self.prefix, self.made)
    }

    /// Adds a node with one result, and returns the name of the result.
    pub(super) fn node(
        &mut self,
        kind: &str,
        input: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> String {
        let output = self.fresh();
        self.named(kind, input, &[&output], attributes);
        output
    }

    /// Adds a node with results of these names.
    pub(super) fn named(
        &mut self,
        kind: &str,
        input: &[&str],
        output: &[&str],
        attribute: Vec<AttributeProto>,
    ) {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        self.graph.node.push(NodeProto {
            input: owned(input),
            output: owned(output),
            name: Some(format!("{kind}_{}", output.first().unwrap_or(&""))),
            op_type: Some(kind.to_owned()),
            attribute,
        });
    }

    fn constant(&mut self, name: &str, make: impl FnOnce(String) -> TensorProto) -> String {
        let name = format!("{}{name}", self.prefix);
        if self.constants.insert(name.clone()) {
            self.graph.initializer.push(make(name.clone()));
        }
        name
    }

    /// Numbers as a constant; the same name stands for the same constant.
    pub(super) fn floats(&mut self, name: &str, values: &[f32], dims: &[usize]) -> String {
        self.constant(name, |name| floats(name, values, dims))
    }

    /// One number.
    pub(super) fn number(&mut self, value: f64) -> String {
        let value = value as f32;
        self.floats(&format!("number_{:08x}", value.to_bits()), &[value], &[])
    }

    /// Whole numbers, such as sizes and axes.
    pub(super) fn integers(&mut self, values: &[i64]) -> String {
        let parts: Vec<String> = values.iter().map(i64::to_string).collect();
        let name = format!("integers_{}", parts.join("_"));
        self.constant(&name, |name| integers(name, values, &[values.len()]))
    }

    /// A whole number without a dimension.
    pub(super) fn integer(&mut self, value: i64) -> String {
        let name = format!("integer_{value}");
        self.constant(&name, |name| integers(name, &[value], &[]))
    }

    /// True, without a dimension.
    pub(super) fn truth(&mut self) -> String {
        self.constant("true", |name| TensorProto {
            name: Some(name),
            ..truth(Vec::new())
        })
    }

    /// A tensor of the model in this shape.
    pub(super) fn tensor<const D: usize>(
        &mut self,
        name: &str,
        tensor: &Tensor<D>,
        dims: &[usize],
    ) -> String {
        self.constant(name, |name| floats(name, &values(tensor), dims))
    }
}

/// The elements of a tensor.
pub(super) fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    let data = tensor.clone().without_autodiff().into_data();
    data.iter::<f32>().collect()
}

fn dims(dims: &[usize]) -> Vec<i64> {
    dims.iter().map(|n| *n as i64).collect()
}

fn floats(name: String, values: &[f32], shape: &[usize]) -> TensorProto {
    TensorProto {
        dims: dims(shape),
        data_type: Some(data_type::FLOAT),
        name: Some(name),
        raw_data: Some(values.iter().flat_map(|v| v.to_le_bytes()).collect()),
    }
}

fn integers(name: String, values: &[i64], shape: &[usize]) -> TensorProto {
    TensorProto {
        dims: dims(shape),
        data_type: Some(data_type::INT64),
        name: Some(name),
        raw_data: Some(values.iter().flat_map(|v| v.to_le_bytes()).collect()),
    }
}

/// True without a name, for use in an attribute.
pub(super) fn truth(dims: Vec<i64>) -> TensorProto {
    TensorProto {
        dims,
        data_type: Some(data_type::BOOL),
        name: None,
        raw_data: Some(vec![1]),
    }
}

fn attribute(name: &str, kind: i32) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(kind),
        ..AttributeProto::default()
    }
}

pub(super) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        i: Some(value),
        ..attribute(name, attribute_type::INT)
    }
}

pub(super) fn ints(name: &str, values: &[usize]) -> AttributeProto {
    AttributeProto {
        ints: dims(values),
        ..attribute(name, attribute_type::INTS)
    }
}

pub(super) fn float(name: &str, value: f64) -> AttributeProto {
    AttributeProto {
        f: Some(value as f32),
        ..attribute(name, attribute_type::FLOAT)
    }
}

pub(super) fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        s: Some(value.as_bytes().to_vec()),
        ..attribute(name, attribute_type::STRING)
    }
}

pub(super) fn tensor(name: &str, value: TensorProto) -> AttributeProto {
    AttributeProto {
        t: Some(value),
        ..attribute(name, attribute_type::TENSOR)
    }
}

pub(super) fn graph(name: &str, value: GraphProto) -> AttributeProto {
    AttributeProto {
        g: Some(value),
        ..attribute(name, attribute_type::GRAPH)
    }
}

/// An input or output. Its first dimension is the batch, if it has `shape`.
pub(super) fn value(
    name: &str,
    kind: i32,
    shape: Option<&[usize]>,
    explanation: &str,
) -> ValueInfoProto {
    let number = |n: &usize| Dimension {
        dim_value: Some(*n as i64),
        dim_param: None,
    };
    let batch = Dimension {
        dim_value: None,
        dim_param: Some(BATCH.to_owned()),
    };
    let sizes = shape.into_iter().flatten().map(number);
    let batch = shape.map(|_| batch);
    let dim = batch.into_iter().chain(sizes).collect();
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            tensor_type: Some(TensorTypeProto {
                elem_type: Some(kind),
                shape: Some(TensorShapeProto { dim }),
            }),
        }),
        doc_string: (!explanation.is_empty()).then(|| explanation.to_owned()),
    }
}
