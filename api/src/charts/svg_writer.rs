//! Writer of SVG text, which escapes texts and rounds numbers.

use std::fmt::{Display, Formatter, Result, Write};

/// A coordinate or a length: one decimal, never NaN and never an exponent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Px(pub(super) f64);

impl Display for Px {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let value = if self.0.is_finite() { self.0.clamp(-1e6, 1e6) } else { 0.0 };
        // Adding zero turns -0 into 0.
        let rounded = (value * 10.0).round() / 10.0 + 0.0;
        if rounded.fract() == 0.0 { write!(f, "{rounded:.0}") } else { write!(f, "{rounded:.1}") }
    }
}

/// `text` with the characters escaped that have a meaning in XML and HTML; control characters, which XML
/// does not allow, become spaces.
pub(super) fn write_escaped(out: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            control if control.is_control() || matches!(control, '\u{fffe}' | '\u{ffff}') => out.push(' '),
            other => out.push(other),
        }
    }
}

/// An attribute: name and value.
pub(super) type Attribute<'a> = (&'a str, &'a dyn Display);

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct SvgWriter {
    text: String,
    open: Vec<&'static str>,
}

impl SvgWriter {
    /// Begins an image with a title, which screen readers read.
    pub(super) fn start_image(class: &str, width: f64, height: f64, title: &str) -> Self {
        Self::start(class, width, height, title, &[])
    }

    /// Begins an image that fills its place in both directions.
    pub(super) fn start_stretched_image(class: &str, width: f64, height: f64, title: &str) -> Self {
        Self::start(class, width, height, title, &[("preserveAspectRatio", &"none")])
    }

    fn start(class: &str, width: f64, height: f64, title: &str, further: &[Attribute<'_>]) -> Self {
        let mut writer = Self::default();
        let view_box = format!("0 0 {} {}", Px(width), Px(height));
        let class = format!("chart-{class}");
        let mut attributes: Vec<Attribute<'_>> =
            vec![("class", &class), ("viewBox", &view_box), ("role", &"img"), ("aria-label", &title)];
        attributes.extend_from_slice(further);
        writer.open_element("svg", &attributes);
        writer
    }

    pub(super) fn open_element(&mut self, name: &'static str, attributes: &[Attribute<'_>]) {
        self.write_head(name, attributes);
        self.text.push('>');
        self.open.push(name);
    }

    pub(super) fn add_element(&mut self, name: &'static str, attributes: &[Attribute<'_>]) {
        self.write_head(name, attributes);
        self.text.push_str("/>");
    }

    pub(super) fn add_text(&mut self, name: &'static str, attributes: &[Attribute<'_>], text: &str) {
        self.write_head(name, attributes);
        self.text.push('>');
        write_escaped(&mut self.text, text);
        let _ = write!(self.text, "</{name}>");
    }

    /// A rectangle with a title, which browsers show beside the pointer.
    pub(super) fn add_titled_rect(&mut self, attributes: &[Attribute<'_>], title: &str) {
        self.open_element("rect", attributes);
        self.add_text("title", &[], title);
        self.close_element();
    }

    pub(super) fn close_element(&mut self) {
        if let Some(name) = self.open.pop() {
            let _ = write!(self.text, "</{name}>");
        }
    }

    /// Closes all open elements.
    pub(super) fn finish(mut self) -> String {
        while !self.open.is_empty() {
            self.close_element();
        }
        self.text
    }

    fn write_head(&mut self, name: &str, attributes: &[Attribute<'_>]) {
        let _ = write!(self.text, "<{name}");
        for (attribute, value) in attributes {
            let _ = write!(self.text, " {attribute}=\"");
            write_escaped(&mut self.text, &value.to_string());
            self.text.push('"');
        }
    }
}

/// Class and path data of a shape that consists of many parts.
#[derive(Debug, Default)]
pub(super) struct PathData(String);

impl PathData {
    pub(super) fn move_to(&mut self, x: f64, y: f64) {
        let _ = write!(self.0, "M{} {}", Px(x), Px(y));
    }

    pub(super) fn line_to(&mut self, x: f64, y: f64) {
        let _ = write!(self.0, "L{} {}", Px(x), Px(y));
    }

    pub(super) fn add_rect(&mut self, x: f64, y: f64, width: f64, height: f64) {
        self.move_to(x, y);
        let _ = write!(self.0, "h{}v{}h{}z", Px(width.max(0.0)), Px(height.max(0.0)), Px(-width.max(0.0)));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Display for PathData {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(&self.0)
    }
}
