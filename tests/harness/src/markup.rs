//! A strict reader of HTML and SVG: every element is closed, nested correctly and escaped. Browsers forgive what this reader
//! refuses, so that a page that passes means the same to every reader.

/// Elements of HTML without content.
const VOID_ELEMENTS: [&str; 8] = ["br", "col", "hr", "img", "input", "link", "meta", "source"];

/// An element of a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// Name of the tag.
    pub name: String,
    /// Attributes with unescaped values, in order.
    pub attributes: Vec<(String, String)>,
    /// Positions of the elements around it, the outermost first.
    pub ancestors: Vec<usize>,
    /// Text in the element and in those inside it.
    pub text: String,
}

impl Element {
    /// Value of an attribute.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// All elements of a document in their order.
///
/// # Errors
/// If the document is not well-formed; the message has the place.
pub fn parse_markup(document: &str) -> Result<Vec<Element>, String> {
    let mut elements: Vec<Element> = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    let mut rest = document;
    while !rest.is_empty() {
        let place = document.len() - rest.len();
        if let Some(comment) = rest.strip_prefix("<!--") {
            rest = comment.split_once("-->").ok_or(format!("{place}: a comment has no end"))?.1;
        } else if let Some(doctype) = rest.strip_prefix("<!doctype html>") {
            rest = doctype;
        } else if let Some(end) = rest.strip_prefix("</") {
            let (name, after) = end.split_once('>').ok_or(format!("{place}: '</' without '>'"))?;
            let last = open.pop().ok_or(format!("{place}: </{name}> closes nothing"))?;
            if elements[last].name != name {
                return Err(format!("{place}: </{name}> closes <{}>", elements[last].name));
            }
            rest = after;
        } else if let Some(start) = rest.strip_prefix('<') {
            let (mut element, is_closed, after) =
                parse_tag(start).map_err(|error| format!("{place}: {error}"))?;
            element.ancestors = open.clone();
            if !is_closed && !VOID_ELEMENTS.contains(&element.name.as_str()) {
                open.push(elements.len());
            }
            elements.push(element);
            rest = after;
        } else {
            let end = rest.find('<').unwrap_or(rest.len());
            let text = unescape(&rest[..end]).map_err(|error| format!("{place}: {error}"))?;
            for parent in &open {
                elements[*parent].text.push_str(&text);
            }
            rest = &rest[end..];
        }
    }
    match open.last() {
        Some(last) => Err(format!("<{}> is not closed", elements[*last].name)),
        None => Ok(elements),
    }
}

/// Parses a tag behind its `<`: the element, whether it ends with `/>`, and the text behind it.
fn parse_tag(text: &str) -> Result<(Element, bool, &str), String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ':');
    let end = text.find(|c| !is_name(c)).ok_or("a tag has no end")?;
    let mut element = Element { name: text[..end].to_owned(), ..Element::default() };
    if element.name.is_empty() {
        return Err("'<' is not escaped".to_owned());
    }
    let mut rest = &text[end..];
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix('>') {
            return Ok((element, false, after));
        }
        if let Some(after) = rest.strip_prefix("/>") {
            return Ok((element, true, after));
        }
        let end = rest.find(|c| !is_name(c)).ok_or(format!("<{}> has no end", element.name))?;
        let (name, after) = rest.split_at(end);
        if name.is_empty() {
            return Err(format!(
                "<{}> has '{}' among its attributes",
                element.name,
                &rest[..rest.len().min(10)]
            ));
        }
        if element.attribute(name).is_some() {
            return Err(format!("<{}> has '{name}' twice", element.name));
        }
        let mut value = String::new();
        rest = after;
        if let Some(quoted) = after.strip_prefix("=\"") {
            let (text, after) =
                quoted.split_once('"').ok_or(format!("{name} of <{}> has no end", element.name))?;
            value = unescape(text)?;
            rest = after;
        }
        element.attributes.push((name.to_owned(), value));
    }
}

fn unescape(text: &str) -> Result<String, String> {
    let mut parts = text.split('&');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    if text.contains(|c: char| c == '<' || (c.is_control() && !c.is_whitespace())) {
        return Err(format!("'{text}' has a '<' or a control character"));
    }
    for part in parts {
        let (name, after) = part.split_once(';').ok_or(format!("'&' is not escaped before '{part}'"))?;
        plain.push(match name {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "#39" | "#x27" => '\'',
            "#38" => '&',
            "#60" => '<',
            "#62" => '>',
            "#34" => '"',
            _ => return Err(format!("'&{name};' is no known entity")),
        });
        plain.push_str(after);
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_have_their_attributes_text_and_ancestors() {
        let document = "<!doctype html><ul class=\"a &amp; b\"><li>x &lt; y<br><b>z</b></li></ul>";
        let elements = parse_markup(document).unwrap();
        assert_eq!(elements[0].attribute("class"), Some("a & b"));
        assert_eq!(elements[1].text, "x < yz");
        assert_eq!(elements[3].ancestors, [0, 1]);
    }

    #[test]
    fn malformed_documents_are_refused() {
        for document in
            ["<p>", "<p></b>", "</p>", "<p>a & b</p>", "<p a=\"1\" a=\"2\"/>", "a < b", "<p a='1'/>"]
        {
            assert!(parse_markup(document).is_err(), "{document}");
        }
    }
}
