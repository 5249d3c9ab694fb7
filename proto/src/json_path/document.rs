//! A JSON document in a compact form.
//!
//! Bound: a value takes 32 bytes beside the texts, so a body of 1 MiB takes at most 17 MiB. The
//! values stand in document order, and the descendants of a value directly follow it.

use std::{collections::HashSet, fmt};

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};

use super::number::JsonNumber;

/// A parsed document.
#[derive(Clone, Debug, Default)]
pub struct JsonDocument {
    nodes: Vec<Node>,
    /// All texts and names, one after the other.
    texts: String,
}

/// Reason why a text cannot be used as a document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// The text is empty.
    #[error("empty")]
    Empty,
    /// Arrays and objects nest too deep.
    #[error("nested deeper than {} levels", JsonDocument::MAX_DEPTH)]
    TooDeep,
    /// The document has too many values.
    #[error("of more than {} values", JsonDocument::MAX_VALUES)]
    TooManyValues,
    /// The text is not JSON.
    #[error("not JSON ({0})")]
    Syntax(String),
}

#[derive(Clone, Copy, Debug)]
struct Node {
    value: StoredValue,
    /// Index after the last descendant.
    end: u32,
    /// Name of a member; empty in arrays.
    name: TextSpan,
    /// True if a later member of the object has the same name.
    is_shadowed: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct TextSpan {
    start: u32,
    length: u32,
}

#[derive(Clone, Copy, Debug)]
enum StoredValue {
    Null,
    Bool(bool),
    Number(JsonNumber),
    Text(TextSpan),
    /// Number of items.
    Array(u32),
    /// Number of members with different names.
    Object(u32),
}

/// A value in a document.
#[derive(Clone, Copy, Debug)]
pub struct NodeRef<'a> {
    document: &'a JsonDocument,
    index: u32,
}

/// The type of a value, with its content.
#[derive(Clone, Copy, Debug)]
pub enum NodeValue<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(JsonNumber),
    /// A text.
    Text(&'a str),
    /// An array with this number of items.
    Array(u32),
    /// An object with this number of members.
    Object(u32),
}

impl JsonDocument {
    /// Maximum depth of arrays and objects: the limit of the parser, which counts the value inside.
    pub const MAX_DEPTH: usize = 127;
    /// Maximum number of values.
    pub const MAX_VALUES: usize = 1 << 20;
    const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

    /// Parses `text`, with or without a byte order mark. Of members with the same name the last one
    /// counts.
    ///
    /// # Errors
    /// If the text is not JSON, or exceeds a limit.
    pub fn parse(text: &[u8]) -> Result<Self, DocumentError> {
        let text = text.strip_prefix(Self::BYTE_ORDER_MARK).unwrap_or(text);
        if text.iter().all(u8::is_ascii_whitespace) {
            return Err(DocumentError::Empty);
        }
        let mut document = Self::default();
        let mut deserializer = serde_json::Deserializer::from_slice(text);
        let parsed = NodeSeed { document: &mut document, name: TextSpan::default() }
            .deserialize(&mut deserializer)
            .and_then(|()| deserializer.end());
        match parsed {
            Ok(()) => Ok(document),
            Err(_) if document.nodes.len() > Self::MAX_VALUES => Err(DocumentError::TooManyValues),
            Err(why) => {
                let why = why.to_string();
                match why.contains("recursion limit exceeded") {
                    true => Err(DocumentError::TooDeep),
                    false => Err(DocumentError::Syntax(why)),
                }
            }
        }
    }

    /// The outermost value.
    pub fn root(&self) -> NodeRef<'_> {
        NodeRef { document: self, index: 0 }
    }

    /// Number of values.
    pub fn value_count(&self) -> usize {
        self.nodes.len()
    }

    fn text(&self, span: TextSpan) -> &str {
        let start = span.start as usize;
        &self.texts[start..start + span.length as usize]
    }

    fn add_text(&mut self, text: &str) -> TextSpan {
        let span = TextSpan { start: to_u32(self.texts.len()), length: to_u32(text.len()) };
        self.texts.push_str(text);
        span
    }

    /// Appends a value; its descendants have to follow.
    fn add_node<E: de::Error>(&mut self, name: TextSpan, value: StoredValue) -> Result<usize, E> {
        let index = self.nodes.len();
        self.nodes.push(Node { value, end: to_u32(index + 1), name, is_shadowed: false });
        match index >= Self::MAX_VALUES {
            true => Err(E::custom("too many values")),
            false => Ok(index),
        }
    }

    fn end_container(&mut self, index: usize, value: StoredValue) {
        self.nodes[index].value = value;
        self.nodes[index].end = to_u32(self.nodes.len());
    }

    /// Marks the members of the object at `index` that have the name of a later member. Returns the
    /// number of the others; `count` is the number of all.
    fn shadow_duplicates(&mut self, index: usize, count: u32) -> u32 {
        /// Objects of up to this size are compared without a set.
        const FEW_MEMBERS: usize = 8;
        if count <= 1 {
            return count;
        }
        let object = NodeRef { document: self, index: to_u32(index) };
        let name = |member: u32| self.text(self.nodes[member as usize].name);
        let mut shadowed = Vec::new();
        if count as usize <= FEW_MEMBERS {
            let mut members = [0; FEW_MEMBERS];
            for (place, member) in members.iter_mut().zip(object.children()) {
                *place = member.index;
            }
            let members = &members[..count as usize];
            for (position, member) in members.iter().enumerate() {
                if members[position + 1..].iter().any(|later| name(*later) == name(*member)) {
                    shadowed.push(*member);
                }
            }
        } else {
            let mut names = HashSet::with_capacity(count as usize);
            let mut members: Vec<u32> = object.children().map(|member| member.index).collect();
            members.reverse();
            shadowed.extend(members.into_iter().filter(|member| !names.insert(name(*member))));
        }
        if shadowed.is_empty() {
            return count;
        }
        let members: Vec<u32> = object.children().map(|member| member.index).collect();
        for member in &shadowed {
            self.nodes[*member as usize].is_shadowed = true;
        }
        self.join_shadowed(&members);
        count - to_u32(shadowed.len())
    }

    /// Extends the end of each shadowed member over the shadowed members that directly follow it.
    /// A walk skips them without counting steps, so it must not visit each of them.
    fn join_shadowed(&mut self, members: &[u32]) {
        let mut joined_end = None;
        for member in members.iter().rev() {
            let node = &mut self.nodes[*member as usize];
            if node.is_shadowed {
                node.end = joined_end.unwrap_or(node.end);
            }
            joined_end = Some(node.end).filter(|_| node.is_shadowed);
        }
    }
}

impl<'a> NodeRef<'a> {
    fn node(self) -> &'a Node {
        &self.document.nodes[self.index as usize]
    }

    /// The value.
    pub fn value(self) -> NodeValue<'a> {
        match self.node().value {
            StoredValue::Null => NodeValue::Null,
            StoredValue::Bool(value) => NodeValue::Bool(value),
            StoredValue::Number(number) => NodeValue::Number(number),
            StoredValue::Text(span) => NodeValue::Text(self.document.text(span)),
            StoredValue::Array(length) => NodeValue::Array(length),
            StoredValue::Object(length) => NodeValue::Object(length),
        }
    }

    /// Name of a member of an object; empty for any other value.
    pub fn name(self) -> &'a str {
        self.document.text(self.node().name)
    }

    /// Items of an array, or members of an object.
    pub fn children(self) -> impl Iterator<Item = NodeRef<'a>> {
        let (mut next, end) = (self.index + 1, self.node().end);
        std::iter::from_fn(move || {
            loop {
                if next >= end {
                    return None;
                }
                let child = Self { index: next, ..self };
                next = child.node().end;
                if !child.node().is_shadowed {
                    return Some(child);
                }
            }
        })
    }

    /// The value itself and all values inside of it, in document order.
    pub(super) fn descendants(self) -> impl Iterator<Item = NodeRef<'a>> {
        let (mut next, end) = (self.index, self.node().end);
        std::iter::from_fn(move || {
            while next < end {
                let node = Self { index: next, ..self };
                if node.node().is_shadowed && next != self.index {
                    next = node.node().end;
                    continue;
                }
                next += 1;
                return Some(node);
            }
            None
        })
    }
}

/// Sizes are below 4 GiB: the body limit of a prober is far smaller.
fn to_u32(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

/// Parses one value, with all values in it, into a document.
struct NodeSeed<'a> {
    document: &'a mut JsonDocument,
    name: TextSpan,
}

impl<'de> DeserializeSeed<'de> for NodeSeed<'_> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl NodeSeed<'_> {
    fn add_scalar<E: de::Error>(self, value: StoredValue) -> Result<(), E> {
        self.document.add_node(self.name, value).map(drop)
    }
}

impl<'de> Visitor<'de> for NodeSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.add_scalar(StoredValue::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        self.add_scalar(StoredValue::Bool(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        self.add_scalar(StoredValue::Number(JsonNumber::Unsigned(value)))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.add_scalar(StoredValue::Number(JsonNumber::Signed(value)))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        self.add_scalar(StoredValue::Number(JsonNumber::Float(value)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        let span = self.document.add_text(text);
        self.add_scalar(StoredValue::Text(span))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let index = self.document.add_node(self.name, StoredValue::Array(0))?;
        let mut count = 0;
        while items
            .next_element_seed(NodeSeed { document: self.document, name: TextSpan::default() })?
            .is_some()
        {
            count += 1;
        }
        self.document.end_container(index, StoredValue::Array(count));
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let index = self.document.add_node(self.name, StoredValue::Object(0))?;
        let mut count = 0;
        while let Some(name) = members.next_key_seed(NameSeed(self.document))? {
            members.next_value_seed(NodeSeed { document: self.document, name })?;
            count += 1;
        }
        self.document.end_container(index, StoredValue::Object(0));
        let count = self.document.shadow_duplicates(index, count);
        self.document.nodes[index].value = StoredValue::Object(count);
        Ok(())
    }
}

/// Parses the name of a member.
struct NameSeed<'a>(&'a mut JsonDocument);

impl<'de> DeserializeSeed<'de> for NameSeed<'_> {
    type Value = TextSpan;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<TextSpan, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NameSeed<'_> {
    type Value = TextSpan;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<TextSpan, E> {
        Ok(self.0.add_text(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_visits_one_of_neighbouring_members_that_later_ones_shadow() {
        let same = r#""a":[0],"#.repeat(10);
        let body = format!(r#"{{{same}"b":1,{same}"a":2,"c":3}}"#);
        let document = JsonDocument::parse(body.as_bytes()).unwrap();

        let first = |index: u32| document.nodes[index as usize].end;
        let names: Vec<&str> = document.root().children().map(NodeRef::name).collect();
        assert_eq!(names, ["b", "a", "c"]);
        assert_eq!((first(1), first(3), first(21), first(22)), (21, 21, 22, 42));
        assert_eq!(document.root().descendants().count(), 4);
    }
}
