//! Reads the pickles inside of PyTorch's weight files, and nothing else that a pickle can be.
//!
//! A pickle is a program for a small stack machine, which may call any function of Python; loading one from a stranger
//! means running their code. This machine knows the opcodes that `torch.save` writes for a dictionary of tensors and
//! five callables, all of them rebuilt here; everything else is an error that names it. Format: the comments of
//! `Lib/pickletools.py` in CPython.
//!
//! Values lie in an arena and refer to each other by index: no input can make this recurse, or leak a cycle.

use millstream_core::{Error, Result};

use super::tensors::{Element, row_major_strides};

/// More values than this have no place in a weight file.
const NODES_MAX: usize = 8 << 20;

/// A value: small ones themselves, others as an index into the arena.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// `None`, a float, or something else whose content doesn't matter.
    Ignored,
    /// A whole number. Booleans are 0 and 1.
    Int(i64),
    /// Something in the arena.
    Node(usize),
}

/// What the arena holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// A string.
    Text(String),
    /// A list or a tuple.
    List(Vec<Value>),
    /// A dictionary, in the order of insertion.
    Dict(Vec<(Value, Value)>),
    /// A permitted name.
    Callable(Callable),
    /// A stretch of numbers in another part of the file.
    Storage(Storage),
    /// A view on a storage.
    Tensor(Tensor),
}

/// What may be called or named.
#[derive(Debug, Clone, PartialEq)]
pub enum Callable {
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `torch._utils._rebuild_tensor_v2`.
    RebuildTensor,
    /// `torch._utils._rebuild_parameter`.
    RebuildParameter,
    /// `torch.FloatStorage` and its siblings.
    StorageType(Element),
}

/// Where numbers are kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Storage {
    /// The name of the part of the file.
    pub key: String,
    /// The type of the numbers.
    pub element: Element,
}

/// A tensor in its storage.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Where its numbers are kept.
    pub storage: Storage,
    /// Its first number there.
    pub offset: usize,
    /// Its length in each dimension.
    pub shape: Vec<usize>,
    /// Numbers from one index to the next, in each dimension.
    pub strides: Vec<usize>,
}

/// What a pickle holds, and how many bytes it took.
pub struct Unpickled {
    /// The value at the top.
    pub top: Value,
    nodes: Vec<Node>,
    /// Bytes up to and including its end.
    pub consumed: usize,
}

impl Unpickled {
    /// What `value` refers to, if it is in the arena.
    pub fn node(&self, value: Value) -> Option<&Node> {
        match value {
            Value::Node(index) => self.nodes.get(index),
            _ => None,
        }
    }

    /// The tensors of a dictionary of tensors, by name; other entries are left out.
    ///
    /// # Errors
    /// `Config`: the pickle is no dictionary.
    pub fn tensors(&self) -> Result<Vec<(&str, &Tensor)>> {
        let Some(Node::Dict(entries)) = self.node(self.top) else {
            return Err(Error::config("it holds no dictionary of tensors: save `model.state_dict()`, not the model"));
        };
        let tensor = |(key, value): &(Value, Value)| match (self.node(*key), self.node(*value)) {
            (Some(Node::Text(name)), Some(Node::Tensor(tensor))) => Some((name.as_str(), tensor)),
            _ => None,
        };
        Ok(entries.iter().filter_map(tensor).collect())
    }
}

/// Runs the pickle at the beginning of `bytes`.
///
/// # Errors
/// `Corruption`: it ends early or makes no sense. `Config`: it does something that weights don't need.
pub fn unpickle(bytes: &[u8]) -> Result<Unpickled> {
    let mut machine =
        Machine { bytes, at: 0, stack: Vec::new(), marks: Vec::new(), memo: Vec::new(), nodes: Vec::new() };
    let top = machine.run()?;
    Ok(Unpickled { top, nodes: machine.nodes, consumed: machine.at })
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: Vec<Value>,
    nodes: Vec<Node>,
}

impl Machine<'_> {
    fn run(&mut self) -> Result<Value> {
        loop {
            let at = self.at;
            let [code] = self.take::<1>()?;
            match code {
                b'.' => return self.pop(),
                0x80 => drop(self.take::<1>()?),
                0x95 => drop(self.take::<8>()?),
                b'(' => self.marks.push(self.stack.len()),
                b'0' => drop(self.pop()?),
                b'N' => self.stack.push(Value::Ignored),
                b'G' => {
                    self.take::<8>()?;
                    self.stack.push(Value::Ignored);
                }
                0x88 => self.stack.push(Value::Int(1)),
                0x89 => self.stack.push(Value::Int(0)),
                b'J' => self.number(|m| Ok(i64::from(i32::from_le_bytes(m.take()?))))?,
                b'K' => self.number(|m| Ok(i64::from(u8::from_le_bytes(m.take()?))))?,
                b'M' => self.number(|m| Ok(i64::from(u16::from_le_bytes(m.take()?))))?,
                0x8a => self.long()?,
                b'X' => self.text(|m| Ok(u32::from_le_bytes(m.take()?) as usize))?,
                0x8c => self.text(|m| Ok(usize::from(u8::from_le_bytes(m.take()?))))?,
                b'}' => self.push(Node::Dict(Vec::new()))?,
                b']' | b')' => self.push(Node::List(Vec::new()))?,
                0x85 => self.tuple(1)?,
                0x86 => self.tuple(2)?,
                0x87 => self.tuple(3)?,
                b't' => {
                    let values = self.pop_to_mark()?;
                    self.push(Node::List(values))?;
                }
                b'a' | b'e' => self.append(code)?,
                b's' | b'u' => self.set_items(code)?,
                b'q' => self.memoize(|m| Ok(usize::from(u8::from_le_bytes(m.take()?))))?,
                b'r' => self.memoize(|m| Ok(u32::from_le_bytes(m.take()?) as usize))?,
                0x94 => self.memoize(|m| Ok(m.memo.len()))?,
                b'h' => self.recall(|m| Ok(usize::from(u8::from_le_bytes(m.take()?))))?,
                b'j' => self.recall(|m| Ok(u32::from_le_bytes(m.take()?) as usize))?,
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.callable(&module, &name)?;
                }
                0x93 => {
                    let (name, module) = (self.pop_text()?, self.pop_text()?);
                    self.callable(&module, &name)?;
                }
                b'Q' => self.storage()?,
                b'R' => self.call()?,
                // The state of an object: for a dictionary of weights its version numbers.
                b'b' => drop(self.pop()?),
                other => {
                    return Err(Error::config(format!(
                        "the pickle has the opcode 0x{other:02x} at byte {at}, which weights don't need: \
                         save the model as safetensors"
                    )));
                }
            }
            if self.nodes.len() > NODES_MAX || self.stack.len() > NODES_MAX {
                return Err(Error::config("the pickle holds more values than a weight file needs"));
            }
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let part = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<N>()).ok_or_else(|| self.damaged())?;
        self.at += N;
        Ok(*part)
    }

    fn slice(&mut self, length: usize) -> Result<&[u8]> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len()).ok_or_else(|| self.damaged())?;
        let part = &self.bytes[self.at..end];
        self.at = end;
        Ok(part)
    }

    fn damaged(&self) -> Error {
        Error::corruption(format!("the pickle is cut off or damaged at byte {}", self.at))
    }

    fn push(&mut self, node: Node) -> Result<()> {
        self.nodes.push(node);
        self.stack.push(Value::Node(self.nodes.len() - 1));
        Ok(())
    }

    fn pop(&mut self) -> Result<Value> {
        self.stack.pop().ok_or_else(|| self.damaged())
    }

    fn pop_node(&mut self) -> Result<&Node> {
        let value = self.pop()?;
        let damaged = self.damaged();
        match value {
            Value::Node(index) => Ok(&self.nodes[index]),
            _ => Err(damaged),
        }
    }

    fn pop_text(&mut self) -> Result<String> {
        let damaged = self.damaged();
        match self.pop_node()? {
            Node::Text(text) => Ok(text.clone()),
            _ => Err(damaged),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>> {
        let height = self.marks.pop().filter(|height| *height <= self.stack.len()).ok_or_else(|| self.damaged())?;
        Ok(self.stack.split_off(height))
    }

    fn number(&mut self, read: impl Fn(&mut Self) -> Result<i64>) -> Result<()> {
        let number = read(self)?;
        self.stack.push(Value::Int(number));
        Ok(())
    }

    /// A whole number of any length; those beyond 64 bits only mark the old format and are left to the caller.
    fn long(&mut self) -> Result<()> {
        let [length] = self.take::<1>()?;
        let bytes = self.slice(usize::from(length))?;
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        let value = if bytes.len() <= 8 {
            wide[..bytes.len()].copy_from_slice(bytes);
            Value::Int(i64::from_le_bytes(wide))
        } else {
            Value::Ignored
        };
        self.stack.push(value);
        Ok(())
    }

    fn text(&mut self, length: impl Fn(&mut Self) -> Result<usize>) -> Result<()> {
        let length = length(self)?;
        let damaged = self.damaged();
        let text = String::from_utf8(self.slice(length)?.to_vec()).map_err(|_| damaged)?;
        self.push(Node::Text(text))
    }

    fn line(&mut self) -> Result<String> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|byte| *byte == b'\n').ok_or_else(|| self.damaged())?;
        self.at += length + 1;
        Ok(String::from_utf8_lossy(&rest[..length]).into_owned())
    }

    fn tuple(&mut self, length: usize) -> Result<()> {
        let start = self.stack.len().checked_sub(length).ok_or_else(|| self.damaged())?;
        let values = self.stack.split_off(start);
        self.push(Node::List(values))
    }

    fn append(&mut self, code: u8) -> Result<()> {
        let values = if code == b'a' { vec![self.pop()?] } else { self.pop_to_mark()? };
        let damaged = self.damaged();
        match self.top_node()? {
            Node::List(list) => list.extend(values),
            _ => return Err(damaged),
        }
        Ok(())
    }

    fn set_items(&mut self, code: u8) -> Result<()> {
        let values = if code == b's' {
            let (value, key) = (self.pop()?, self.pop()?);
            vec![key, value]
        } else {
            self.pop_to_mark()?
        };
        let damaged = self.damaged();
        match self.top_node()? {
            Node::Dict(entries) if values.len() % 2 == 0 => {
                entries.extend(values.chunks_exact(2).map(|pair| (pair[0], pair[1])));
            }
            _ => return Err(damaged),
        }
        Ok(())
    }

    fn top_node(&mut self) -> Result<&mut Node> {
        let damaged = self.damaged();
        match self.stack.last() {
            Some(Value::Node(index)) => Ok(&mut self.nodes[*index]),
            _ => Err(damaged),
        }
    }

    fn memoize(&mut self, index: impl Fn(&mut Self) -> Result<usize>) -> Result<()> {
        let index = index(self)?;
        let value = *self.stack.last().ok_or_else(|| self.damaged())?;
        // Python numbers the memo without gaps; anything else would be an invitation to allocate.
        match index.cmp(&self.memo.len()) {
            std::cmp::Ordering::Less => self.memo[index] = value,
            std::cmp::Ordering::Equal => self.memo.push(value),
            std::cmp::Ordering::Greater => return Err(self.damaged()),
        }
        Ok(())
    }

    fn recall(&mut self, index: impl Fn(&mut Self) -> Result<usize>) -> Result<()> {
        let index = index(self)?;
        let value = *self.memo.get(index).ok_or_else(|| self.damaged())?;
        self.stack.push(value);
        Ok(())
    }

    fn callable(&mut self, module: &str, name: &str) -> Result<()> {
        let callable = match (module, name) {
            ("collections", "OrderedDict") => Callable::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Callable::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Callable::RebuildParameter,
            ("torch", storage) if storage.ends_with("Storage") => Callable::StorageType(match storage {
                "FloatStorage" => Element::F32,
                "HalfStorage" => Element::F16,
                "BFloat16Storage" => Element::Bf16,
                // Masks and counters, which old files hold beside the weights.
                "DoubleStorage" | "LongStorage" => Element::Other(storage.into(), 8),
                "IntStorage" => Element::Other(storage.into(), 4),
                "ShortStorage" => Element::Other(storage.into(), 2),
                "CharStorage" | "ByteStorage" | "BoolStorage" => Element::Other(storage.into(), 1),
                _ => return Err(foreign(module, name)),
            }),
            _ => return Err(foreign(module, name)),
        };
        self.push(Node::Callable(callable))
    }

    /// `('storage', type, key, device, numbers)`: what PyTorch puts in the place of numbers.
    fn storage(&mut self) -> Result<()> {
        let damaged = self.damaged();
        let Node::List(parts) = self.pop_node()?.clone() else { return Err(damaged) };
        let node = |index: usize| match parts.get(index) {
            Some(Value::Node(index)) => self.nodes.get(*index),
            _ => None,
        };
        let (Some(Node::Text(word)), Some(Node::Callable(Callable::StorageType(element))), Some(Node::Text(key))) =
            (node(0), node(1), node(2))
        else {
            return Err(damaged);
        };
        if word != "storage" {
            return Err(damaged);
        }
        let storage = Storage { key: key.clone(), element: element.clone() };
        self.push(Node::Storage(storage))
    }

    fn call(&mut self) -> Result<()> {
        let damaged = self.damaged();
        let Node::List(arguments) = self.pop_node()?.clone() else { return Err(damaged) };
        let callable = self.pop_node()?.clone();
        match callable {
            Node::Callable(Callable::OrderedDict) if arguments.is_empty() => self.push(Node::Dict(Vec::new())),
            Node::Callable(Callable::RebuildParameter) => {
                self.stack.push(*arguments.first().ok_or_else(|| self.damaged())?);
                Ok(())
            }
            Node::Callable(Callable::RebuildTensor) => {
                let tensor = self.tensor(&arguments).ok_or_else(|| self.damaged())?;
                self.push(Node::Tensor(tensor))
            }
            _ => Err(self.damaged()),
        }
    }

    /// `_rebuild_tensor_v2(storage, offset, shape, strides, …)`.
    fn tensor(&self, arguments: &[Value]) -> Option<Tensor> {
        let node = |value: Option<&Value>| match value {
            Some(Value::Node(index)) => self.nodes.get(*index),
            _ => None,
        };
        let number = |value: &Value| match value {
            Value::Int(number) => usize::try_from(*number).ok(),
            _ => None,
        };
        let numbers = |value: Option<&Value>| match node(value) {
            Some(Node::List(list)) => list.iter().map(number).collect::<Option<Vec<usize>>>(),
            _ => None,
        };
        let Some(Node::Storage(storage)) = node(arguments.first()) else { return None };
        let shape = numbers(arguments.get(2))?;
        let mut strides = numbers(arguments.get(3))?;
        if strides.len() != shape.len() {
            return None;
        }
        // The stride of a dimension of length 1 says nothing.
        if shape.iter().all(|length| *length > 0) {
            let plain = row_major_strides(&shape);
            for (i, length) in shape.iter().enumerate() {
                if *length == 1 {
                    strides[i] = plain[i];
                }
            }
        }
        Some(Tensor { storage: storage.clone(), offset: number(arguments.get(1)?)?, shape, strides })
    }
}

fn foreign(module: &str, name: &str) -> Error {
    Error::config(format!(
        "the pickle names `{module}.{name}`, which weights don't need and which is not run: save the model as safetensors"
    ))
}
