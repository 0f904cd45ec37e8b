//! One JSON object, gone through once: only the text and the fields of drop rules are kept, the rest is skipped.

use recipe::DropRule;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

/// Which fields are wanted, as a tree of keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields {
    root: Node,
    rules: Vec<String>,
}

#[derive(Clone, Debug, Default)]
struct Node {
    children: Vec<(String, Node)>,
    is_text: bool,
    /// Indices of the rules that compare this value.
    rules: Vec<usize>,
}

impl Node {
    fn at(&mut self, path: &str) -> &mut Node {
        path.split('.').fold(self, |node, key| {
            let found = node.children.iter().position(|child| child.0 == key);
            let index = found.unwrap_or_else(|| {
                node.children.push((key.into(), Node::default()));
                node.children.len() - 1
            });
            &mut node.children[index].1
        })
    }
}

impl Fields {
    /// The text field, if there is one to find, and the rules.
    pub(crate) fn new(text: Option<&str>, rules: &[DropRule]) -> Self {
        let mut root = Node::default();
        if let Some(text) = text {
            root.at(text).is_text = true;
        }
        for (index, rule) in rules.iter().enumerate() {
            root.at(&rule.field).rules.push(index);
        }
        Self { root, rules: rules.iter().map(|rule| rule.equals.clone()).collect() }
    }

    /// Goes through an object.
    pub(crate) fn parse<'a>(&self, json: &'a [u8]) -> Result<ParsedLine<'a>, serde_json::Error> {
        // serde_json hands out the bytes of a string whatever they are, bad UTF-8 and lone surrogates included (the recipe
        // says what becomes of those), but only if nothing else can stand there. Where something else does, look again.
        self.walk(json, true).or_else(|_| self.walk(json, false))
    }

    fn walk<'a>(&self, json: &'a [u8], text_as_bytes: bool) -> Result<ParsedLine<'a>, serde_json::Error> {
        let mut line = ParsedLine { text: Parsed::Missing, rule_holds: false };
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let walk = Walk { node: &self.root, rules: &self.rules, line: &mut line, top: true, text_as_bytes };
        walk.deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(line)
    }
}

/// What became of the text field.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed<'a> {
    /// Not there, or null.
    Missing,
    /// Something else than a string.
    NotString,
    /// Its bytes; not necessarily UTF-8.
    Text(Cow<'a, [u8]>),
}

/// What was found in an object.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ParsedLine<'a> {
    pub(crate) text: Parsed<'a>,
    pub(crate) rule_holds: bool,
}

struct Walk<'w, 'a> {
    node: &'w Node,
    rules: &'w [String],
    line: &'w mut ParsedLine<'a>,
    top: bool,
    text_as_bytes: bool,
}

impl<'a> Walk<'_, 'a> {
    /// A scalar that is not a string, as rules spell it.
    fn scalar<E: Error>(mut self, value: &str) -> Result<(), E> {
        if self.top {
            return Err(E::custom("not a JSON object"));
        }
        self.compare(value.as_bytes());
        if self.node.is_text {
            self.line.text = Parsed::NotString;
        }
        Ok(())
    }

    fn compare(&mut self, value: &[u8]) {
        self.line.rule_holds |= self.node.rules.iter().any(|&rule| self.rules[rule].as_bytes() == value);
    }

    fn string<E: Error>(mut self, value: Cow<'a, [u8]>) -> Result<(), E> {
        if self.top {
            return Err(E::custom("not a JSON object"));
        }
        self.compare(&value);
        if self.node.is_text {
            self.line.text = Parsed::Text(value);
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.node.is_text && self.node.children.is_empty() && self.text_as_bytes {
            deserializer.deserialize_bytes(self)
        } else {
            deserializer.deserialize_any(self)
        }
    }
}

impl<'de> Visitor<'de> for Walk<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.top { "a JSON object" } else { "any value" })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if self.node.is_text {
            self.line.text = Parsed::NotString;
        }
        while let Some(key) = map.next_key::<Key<'de>>()? {
            match self.node.children.iter().find(|child| child.0.as_bytes() == &*key.0) {
                Some((_, node)) => {
                    let (rules, line, text_as_bytes) = (self.rules, &mut *self.line, self.text_as_bytes);
                    map.next_value_seed(Walk { node, rules, line, top: false, text_as_bytes })?;
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        if self.top {
            return Err(A::Error::custom("not a JSON object"));
        }
        if self.node.is_text {
            self.line.text = Parsed::NotString;
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_borrowed_bytes<E: Error>(self, value: &'de [u8]) -> Result<(), E> {
        self.string(Cow::Borrowed(value))
    }

    fn visit_bytes<E: Error>(self, value: &[u8]) -> Result<(), E> {
        self.string(Cow::Owned(value.to_vec()))
    }

    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<(), E> {
        self.string(Cow::Borrowed(value.as_bytes()))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.string(Cow::Owned(value.as_bytes().to_vec()))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.scalar(if value { "true" } else { "false" })
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.scalar(&value.to_string())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.scalar(&value.to_string())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.scalar(&value.to_string())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        if self.top {
            return Err(E::custom("not a JSON object"));
        }
        let mut walk = self;
        walk.compare(b"null");
        Ok(())
    }
}

/// A key; borrowed from the line where it has no escapes.
struct Key<'a>(Cow<'a, [u8]>);

impl<'de> serde::Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(value.as_bytes())))
            }
            fn visit_str<E: Error>(self, value: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(value.as_bytes().to_vec())))
            }
            fn visit_borrowed_bytes<E: Error>(self, value: &'de [u8]) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(value)))
            }
            fn visit_bytes<E: Error>(self, value: &[u8]) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(value.to_vec())))
            }
        }
        deserializer.deserialize_bytes(KeyVisitor)
    }
}
