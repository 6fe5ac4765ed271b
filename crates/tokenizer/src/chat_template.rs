//! Conversations written as the model was trained to read them, by the Jinja template in its file.
//!
//! Templates are written for Python's Jinja2 as Hugging Face calls it: blocks take their line with them, `tojson` keeps
//! text as it is, `raise_exception` and `strftime_now` exist, and methods of Python's strings, lists and dictionaries
//! may be called.

use jiff::Zoned;
use minijinja::{Environment, Error, ErrorKind, Value, syntax::SyntaxConfig, value::Serde};
use serde::Serialize;

use crate::TokenizerError;

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message of that role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message { role: role.into(), content: content.into() }
    }
}

/// A compiled template with the names of the tokens that it writes.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

const NAME: &str = "chat_template";

/// Instructions that a template may cost, so that none runs for ever.
const FUEL: u64 = 10_000_000;

impl ChatTemplate {
    /// Compiles a template; `bos` and `eos` are what `bos_token` and `eos_token` stand for in it.
    ///
    /// # Errors
    /// When the template is not Jinja.
    pub fn new(source: &str, bos: Option<String>, eos: Option<String>) -> Result<ChatTemplate, TokenizerError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(template_error)?;
        environment.set_syntax(syntax);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", tojson);
        environment.add_template_owned(NAME, without_generation_marks(source)).map_err(template_error)?;
        Ok(ChatTemplate {
            source: source.to_string(),
            environment,
            bos_token: bos.unwrap_or_default(),
            eos_token: eos.unwrap_or_default(),
        })
    }

    /// The template as the file has it.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The conversation as text, to be encoded without `add_special` (templates write BOS themselves) and with
    /// `parse_special`. `add_generation_prompt`: with the begin of the assistant's answer.
    ///
    /// # Errors
    /// When the template refuses the conversation (such as two messages of one role in turn) or fails.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, TokenizerError> {
        self.render_with(messages, add_generation_prompt, &serde_json::Map::new())
    }

    /// As [`ChatTemplate::render`], for messages of any shape and with further variables (`tools`, `enable_thinking`, …).
    ///
    /// # Errors
    /// As there.
    pub fn render_with(
        &self,
        messages: &(impl Serialize + ?Sized),
        add_generation_prompt: bool,
        variables: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<String, TokenizerError> {
        let template = self.environment.get_template(NAME).map_err(template_error)?;
        let own = minijinja::context! {
            messages => Value::from(Serde(messages)),
            add_generation_prompt => add_generation_prompt,
            bos_token => self.bos_token.as_str(),
            eos_token => self.eos_token.as_str(),
        };
        template.render(minijinja::context! { ..own, ..Value::from(Serde(variables)) }).map_err(template_error)
    }
}

fn template_error(error: Error) -> TokenizerError {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    TokenizerError::Template(text)
}

/// Marks around what the assistant says, for computing losses; they write nothing.
fn without_generation_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(begin) = rest.find("{%") {
        let Some(length) = rest[begin + 2..].find("%}") else { break };
        let end = begin + 2 + length + 2;
        let tag = &rest[begin..end];
        let name = tag[2..2 + length].trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace());
        out.push_str(&rest[..begin]);
        match name {
            "generation" => out.push_str(&tag.replacen(name, "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen(name, "endif", 1)),
            _ => out.push_str(tag),
        }
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

fn strftime_now(format: String) -> Result<String, Error> {
    jiff::fmt::strtime::format(&format, &Zoned::now())
        .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("strftime_now(`{format}`): {e}")))
}

/// JSON with Python's spacing (`", "` and `": "`), or indented; text is not escaped for HTML.
fn tojson(value: Value, options: minijinja::value::Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let failed = |e: serde_json::Error| Error::new(ErrorKind::BadSerialization, e.to_string());
    let mut out = Vec::new();
    match indent {
        Some(width) => {
            let spaces = " ".repeat(width.min(64));
            let formatter = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter)).map_err(failed)?;
        }
        None => {
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, PythonSpacing)).map_err(failed)?
        }
    }
    String::from_utf8(out).map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))
}

struct PythonSpacing;

impl serde_json::ser::Formatter for PythonSpacing {
    fn begin_array_value<W: std::io::Write + ?Sized>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: std::io::Write + ?Sized>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: std::io::Write + ?Sized>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}
