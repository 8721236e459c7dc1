//! A template written again so that the engine does what jinja2 does.
//!
//! The template is parsed by the engine's own parser and its tree is written as text between marks that no template has,
//! with no white space control. Where the engine follows other rules than jinja2 the text says what the engine does right
//! (`operators.rs` has what is called), and where nothing does, the construct is refused by its name:
//!
//! - operators, loops, slices and attributes that are named as methods are calls;
//! - a macro names all that it reads outside first, so that the engine keeps these for it, and knows which arguments a
//!   call gives, so that one that is given undefined does not get its default;
//! - blocks that are a scope in jinja2 are `with` blocks.

mod expressions;
mod names;

use std::collections::{BTreeSet, HashMap, HashSet};

use ast::{Expr, Stmt};
use minijinja::Error;
use minijinja::machinery::{Span, ast};
use minijinja::syntax::SyntaxConfig;

use self::expressions::level;
use self::names::{assigned_names, collect_macros, names_of, names_of_expr, namespaces, sets};
use super::{MARKS, TemplateError};

/// What operators and the like are named with; no template has such names.
const OURS: &str = "lorafit_";

/// Where a break or a continue may be: what it must leave first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Loop { has_else: bool },
    Scope(&'static str),
}

type Result<T = ()> = std::result::Result<T, TemplateError>;

/// The text of a template, to be compiled with the delimiters that [`syntax`] gives for the same mark.
///
/// # Errors
/// When the template uses what is not supported.
pub(super) fn rewrite<'a>(template: &Stmt<'a>, mark: char, escapes: bool) -> Result<String> {
    let mut writer = Writer {
        out: String::new(),
        line: 1,
        mark,
        escapes,
        macros: HashMap::new(),
        namespaces: namespaces(template),
        places: Vec::new(),
    };
    collect_macros(std::slice::from_ref(template), &mut writer.macros);
    // A name that something else has as well may be that where it stands.
    let others = assigned_names(template);
    writer.macros.retain(|name, signature| signature.defaults > 0 || !others.contains(name));
    writer.statement(template)?;
    Ok(writer.out)
}

/// The syntax that a template is rewritten in.
pub(super) fn syntax(mark: char) -> std::result::Result<SyntaxConfig, Error> {
    SyntaxConfig::builder()
        .block_delimiters(format!("{mark}%"), format!("%{mark}"))
        .variable_delimiters(format!("{mark}{{"), format!("}}{mark}"))
        .comment_delimiters(format!("{mark}#"), format!("#{mark}"))
        .keep_trailing_newline(true)
        .build()
}

/// A macro's parameters, and how many have a default.
struct Signature<'a> {
    parameters: Vec<&'a str>,
    defaults: usize,
}

struct Writer<'a> {
    out: String,
    line: usize,
    mark: char,
    escapes: bool,
    macros: HashMap<&'a str, Signature<'a>>,
    /// Variables that hold a namespace, which has no methods.
    namespaces: HashSet<&'a str>,
    places: Vec<Place>,
}

fn refused<T>(what: impl std::fmt::Display, span: Span) -> Result<T> {
    Err(TemplateError::Syntax {
        line: Some(span.start_line.into()),
        message: format!("{what} is not supported"),
    })
}

fn own(name: &str, span: Span) -> Result {
    match name.starts_with(OURS) && !MARKS.contains(&name) {
        true => refused(format!("the name {name}, which begins with {OURS},"), span),
        false => Ok(()),
    }
}

impl<'a> Writer<'a> {
    fn push(&mut self, text: &str) {
        self.line += text.bytes().filter(|b| *b == b'\n').count();
        self.out.push_str(text);
    }

    /// Goes on to a line, so that errors name the line of the template.
    fn go_to_line(&mut self, span: Span) {
        while self.line < span.start_line.into() {
            self.push("\n");
        }
    }

    /// `{% text %}`.
    fn tag(&mut self, text: &str) {
        let mark = self.mark;
        self.push(&format!("{mark}% {text} %{mark}"));
    }

    fn open(&mut self, span: Span, text: &str) {
        let mark = self.mark;
        self.push(&format!("{mark}% "));
        self.go_to_line(span);
        self.push(text);
    }

    fn close(&mut self) {
        let mark = self.mark;
        self.push(&format!(" %{mark}"));
    }

    /// `{{ expression }}`, where `write` writes the expression.
    fn print(&mut self, span: Span, write: impl FnOnce(&mut Self) -> Result) -> Result {
        let mark = self.mark;
        self.push(&format!("{mark}{{ "));
        self.go_to_line(span);
        write(self)?;
        self.push(&format!(" }}{mark}"));
        Ok(())
    }

    fn body(&mut self, body: &[Stmt<'a>]) -> Result {
        body.iter().try_for_each(|statement| self.statement(statement))
    }

    /// A body in which no break or continue may leave.
    fn closed(&mut self, what: &'static str, body: &[Stmt<'a>]) -> Result {
        self.places.push(Place::Scope(what));
        let result = self.body(body);
        self.places.pop();
        result
    }

    /// The same with a scope of its own, as far as something is set in it.
    fn scoped(&mut self, what: &'static str, body: &[Stmt<'a>]) -> Result {
        let sets = sets(body);
        if sets {
            self.tag("with");
        }
        self.closed(what, body)?;
        if sets {
            self.tag("endwith");
        }
        Ok(())
    }

    fn statement(&mut self, statement: &Stmt<'a>) -> Result {
        match statement {
            Stmt::Template(template) => self.body(&template.children),
            Stmt::EmitRaw(raw) => {
                self.push(raw.raw);
                Ok(())
            }
            Stmt::EmitExpr(emit) => match &emit.expr {
                Expr::Var(var) if var.id == "loop" => refused("the text of loop", var.span()),
                Expr::Var(var) if self.macros.contains_key(var.id) => {
                    refused("the text of a macro", var.span())
                }
                expr => self.print(emit.span(), |w| w.expr(expr, level::ANY)),
            },
            Stmt::ForLoop(stmt) => self.for_loop(stmt, stmt.span()),
            Stmt::IfCond(stmt) => {
                self.if_cond(stmt, stmt.span(), "if ")?;
                self.tag("endif");
                Ok(())
            }
            Stmt::WithBlock(with) => self.with(with, with.span()),
            Stmt::Set(set) => self.set(set, set.span()),
            Stmt::SetBlock(set) => self.set_block(set, set.span()),
            Stmt::FilterBlock(block) => {
                self.open(block.span(), "filter ");
                self.filter_chain(&block.filter)?;
                self.close();
                self.scoped("a filter block", &block.body)?;
                self.tag("endfilter");
                Ok(())
            }
            Stmt::Block(block) => {
                self.open(block.span(), "block ");
                self.push(block.name);
                self.close();
                self.closed("a block", &block.body)?;
                self.tag("endblock");
                Ok(())
            }
            Stmt::Macro(stmt) => {
                self.open(stmt.span(), "macro ");
                self.push(stmt.name);
                self.macro_body(stmt, stmt.span(), true)?;
                self.tag("endmacro");
                Ok(())
            }
            Stmt::CallBlock(block) => {
                self.open(block.span(), "call");
                self.parameters(&block.macro_decl, block.span(), false)?;
                self.push(" ");
                self.call(&block.call)?;
                self.close();
                self.places.push(Place::Scope("a call block"));
                let result = self.reads(&block.macro_decl).and_then(|()| self.body(&block.macro_decl.body));
                self.places.pop();
                result?;
                self.tag("endcall");
                Ok(())
            }
            Stmt::Include(include) => match &include.name {
                Expr::Const(name) if name.value.as_str().is_some_and(|name| MARKS.contains(&name)) => {
                    let name = name.value.as_str().unwrap_or_default().to_string();
                    self.print(include.span(), |w| {
                        w.push(&name);
                        Ok(())
                    })
                }
                _ => refused("include", include.span()),
            },
            Stmt::Continue(stmt) => self.leave("continue", stmt.span()),
            Stmt::Break(stmt) => self.leave("break", stmt.span()),
            Stmt::AutoEscape(stmt) => refused("autoescape", stmt.span()),
            Stmt::Import(stmt) => refused("import", stmt.span()),
            Stmt::FromImport(stmt) => refused("import", stmt.span()),
            Stmt::Extends(stmt) => refused("extends", stmt.span()),
            Stmt::Do(stmt) => refused("do", stmt.span()),
        }
    }

    fn leave(&mut self, word: &str, span: Span) -> Result {
        match self.places.last() {
            Some(Place::Loop { has_else: false }) => {
                self.open(span, word);
                self.close();
                Ok(())
            }
            Some(Place::Loop { has_else: true }) => {
                refused(format!("{word} in a loop that has an else"), span)
            }
            Some(Place::Scope(what)) => refused(format!("{word} inside {what}"), span),
            None => refused(format!("{word} outside of a loop"), span),
        }
    }

    fn for_loop(&mut self, stmt: &ast::ForLoop<'a>, span: Span) -> Result {
        self.open(span, "for ");
        let names = self.target(&stmt.target)?;
        self.push(" in ");
        if matches!((&stmt.iter, names), (Expr::List(_), 1)) {
            self.expr(&stmt.iter, level::OR)?;
        } else {
            self.expr(&stmt.iter, level::FILTER)?;
            self.push(if names > 1 { "|lorafit_rows" } else { "|lorafit_iter" });
        }
        if let Some(condition) = &stmt.filter_expr {
            self.push(" if ");
            self.expr(condition, level::OR)?;
        }
        if stmt.recursive {
            self.push(" recursive");
        }
        self.close();
        self.places.push(Place::Loop { has_else: !stmt.else_body.is_empty() });
        let result = self.body(&stmt.body);
        self.places.pop();
        result?;
        if !stmt.else_body.is_empty() {
            self.tag("else");
            self.body(&stmt.else_body)?;
        }
        self.tag("endfor");
        Ok(())
    }

    /// All but the end of a condition.
    fn if_cond(&mut self, stmt: &ast::IfCond<'a>, span: Span, word: &str) -> Result {
        self.open(span, word);
        self.expr(&stmt.expr, level::OR)?;
        self.close();
        self.body(&stmt.true_body)?;
        match stmt.false_body.as_slice() {
            [] => Ok(()),
            [Stmt::IfCond(next)] => self.if_cond(next, next.span(), "elif "),
            body => {
                self.tag("else");
                self.body(body)
            }
        }
    }

    fn with(&mut self, with: &ast::WithBlock<'a>, span: Span) -> Result {
        let mut read = BTreeSet::new();
        with.assignments.iter().for_each(|(_, value)| names_of_expr(value, &mut read));
        let mut set = BTreeSet::new();
        with.assignments.iter().for_each(|(target, _)| names_of_expr(target, &mut set));
        // The values are those of outside: they are kept under other names first.
        let apart = with.assignments.len() > 1 && !read.is_disjoint(&set)
            || set.iter().any(|name| read.contains(name));
        if apart {
            self.open(span, "with ");
            for (i, (_, value)) in with.assignments.iter().enumerate() {
                self.push(&format!("{}lorafit_with{i} = ", if i > 0 { ", " } else { "" }));
                self.expr(value, level::ANY)?;
            }
            self.close();
        }
        self.open(span, "with ");
        for (i, (target, value)) in with.assignments.iter().enumerate() {
            self.push(if i > 0 { ", " } else { "" });
            let brackets = matches!(target, Expr::List(_));
            self.push(if brackets { "(" } else { "" });
            let names = self.target(target)?;
            self.push(if brackets { ") = " } else { " = " });
            if apart {
                self.push(&format!("lorafit_with{i}"));
            } else {
                self.expr(value, if names > 1 { level::FILTER } else { level::ANY })?;
            }
            if names > 1 {
                self.push(&format!("|lorafit_unpack({names})"));
            }
        }
        self.close();
        self.closed("a with block", &with.body)?;
        self.tag("endwith");
        if apart {
            self.tag("endwith");
        }
        Ok(())
    }

    fn set(&mut self, set: &ast::Set<'a>, span: Span) -> Result {
        if let Expr::GetAttr(target) = &set.target {
            return self.set_attribute(target, span, |w| w.expr(&set.expr, level::ANY));
        }
        self.open(span, "set ");
        let names = self.target(&set.target)?;
        self.push(" = ");
        self.expr(&set.expr, if names > 1 { level::FILTER } else { level::ANY })?;
        if names > 1 {
            self.push(&format!("|lorafit_unpack({names})"));
        }
        self.close();
        Ok(())
    }

    fn set_attribute(
        &mut self,
        target: &ast::GetAttr<'a>,
        span: Span,
        value: impl FnOnce(&mut Self) -> Result,
    ) -> Result {
        self.print(span, |w| {
            w.expr(&target.expr, level::FILTER)?;
            w.push(&format!("|lorafit_set('{}', ", target.name));
            value(w)?;
            w.push(")");
            Ok(())
        })
    }

    fn set_block(&mut self, set: &ast::SetBlock<'a>, span: Span) -> Result {
        self.open(span, "set ");
        let attribute = match &set.target {
            Expr::GetAttr(target) => {
                self.push("lorafit_text");
                Some(target)
            }
            target => {
                if self.target(target)? > 1 {
                    return refused("a set block with several variables", span);
                }
                None
            }
        };
        if let Some(filter) = &set.filter {
            self.push(" | ");
            self.filter_chain(filter)?;
        }
        self.close();
        self.scoped("a set block", &set.body)?;
        self.tag("endset");
        match attribute {
            Some(target) => self.set_attribute(target, span, |w| {
                w.push("lorafit_text");
                Ok(())
            }),
            None => Ok(()),
        }
    }

    /// What is assigned to; gives how many values it takes.
    fn target(&mut self, target: &Expr<'a>) -> Result<usize> {
        match target {
            Expr::Var(var) => {
                own(var.id, var.span())?;
                self.push(var.id);
                Ok(1)
            }
            Expr::List(list) if list.items.len() > 1 => {
                for (i, item) in list.items.iter().enumerate() {
                    self.push(if i > 0 { ", " } else { "" });
                    let brackets = matches!(item, Expr::List(_));
                    self.push(if brackets { "(" } else { "" });
                    self.target(item)?;
                    self.push(if brackets { ")" } else { "" });
                }
                Ok(list.items.len())
            }
            other => refused("an assignment to this", other.span()),
        }
    }

    // Macros.

    fn parameters(&mut self, stmt: &ast::Macro<'a>, span: Span, is_macro: bool) -> Result {
        if stmt.args.is_empty() && !is_macro {
            return Ok(());
        }
        self.push("(");
        let plain = stmt.args.len() - stmt.defaults.len();
        for (i, parameter) in stmt.args.iter().enumerate() {
            self.push(if i > 0 { ", " } else { "" });
            self.target(parameter)?;
            if i >= plain && !is_macro {
                self.push("=");
                self.expr(&stmt.defaults[i - plain], level::ANY)?;
            }
        }
        if is_macro && !stmt.defaults.is_empty() {
            self.push(", lorafit_given");
        }
        self.push(")");
        let mut read = BTreeSet::new();
        names_of(&stmt.body, &mut read);
        match ["varargs", "kwargs"].into_iter().find(|name| read.contains(name)) {
            Some(name) => refused(format!("{name} in a macro"), span),
            None => Ok(()),
        }
    }

    fn macro_body(&mut self, stmt: &ast::Macro<'a>, span: Span, is_macro: bool) -> Result {
        own(stmt.name, span)?;
        self.parameters(stmt, span, is_macro)?;
        self.close();
        self.reads(stmt)?;
        let plain = stmt.args.len() - stmt.defaults.len();
        for (parameter, default) in stmt.args[plain..].iter().zip(&stmt.defaults) {
            let Expr::Var(name) = parameter else { continue };
            let id = name.id;
            self.tag(&format!("if not lorafit_given is lorafit_gives('{id}', {id})"));
            self.open(span, &format!("set {id} = "));
            self.expr(default, level::ANY)?;
            self.close();
            self.tag("endif");
        }
        self.closed("a macro", &stmt.body)
    }

    /// Names what a macro reads, so that the engine keeps it for the macro.
    fn reads(&mut self, stmt: &ast::Macro<'a>) -> Result {
        let mut read = BTreeSet::new();
        names_of(&stmt.body, &mut read);
        stmt.defaults.iter().for_each(|default| names_of_expr(default, &mut read));
        for parameter in &stmt.args {
            if let Expr::Var(name) = parameter {
                read.remove(name.id);
            }
        }
        for name in ["loop", "self", "caller", "super"] {
            read.remove(name);
        }
        if !read.is_empty() {
            self.tag("if false");
            let names = read.into_iter().collect::<Vec<_>>().join(", ");
            self.tag(&format!("set lorafit_read = [{names}]"));
            self.tag("endif");
        }
        Ok(())
    }
}
