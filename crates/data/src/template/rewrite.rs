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

use std::collections::{BTreeSet, HashMap};

use ast::{BinOpKind, CallArg, CompareOpKind, Expr, Stmt, UnaryOpKind};
use minijinja::machinery::{Span, ast};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{Error, Value};

use super::{MARKS, TemplateError, describe, filters, methods, printing};

/// What operators and the like are named with; no template has such names.
const OURS: &str = "py_";

/// Where a break or a continue may be: what it must leave first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Loop { has_else: bool },
    Scope(&'static str),
}

/// Which levels of precedence an expression may have where it stands.
mod level {
    pub const ANY: u8 = 0;
    pub const OR: u8 = 1;
    pub const AND: u8 = 2;
    pub const NOT: u8 = 3;
    pub const COMPARE: u8 = 4;
    pub const SUM: u8 = 5;
    pub const PRODUCT: u8 = 7;
    pub const SIGN: u8 = 9;
    pub const FILTER: u8 = 10;
    pub const PRIMARY: u8 = 11;
}

type Result<T = ()> = std::result::Result<T, TemplateError>;

/// The text of a template, to be compiled with the delimiters that [`syntax`] gives for the same mark.
///
/// # Errors
/// When the template uses what is not supported.
pub(super) fn rewrite<'a>(template: &Stmt<'a>, mark: char, escapes: bool) -> Result<String> {
    let mut writer =
        Writer { out: String::new(), line: 1, mark, escapes, macros: HashMap::new(), places: Vec::new() };
    collect_macros(std::slice::from_ref(template), &mut writer.macros);
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
    fn to_line(&mut self, span: Span) {
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
        self.to_line(span);
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
        self.to_line(span);
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
            self.push(if names > 1 { "|py_rows" } else { "|py_iter" });
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
                self.push(&format!("{}py_with{i} = ", if i > 0 { ", " } else { "" }));
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
                self.push(&format!("py_with{i}"));
            } else {
                self.expr(value, if names > 1 { level::FILTER } else { level::ANY })?;
            }
            if names > 1 {
                self.push(&format!("|py_unpack({names})"));
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
            self.push(&format!("|py_unpack({names})"));
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
            w.push(&format!("|py_set('{}', ", target.name));
            value(w)?;
            w.push(")");
            Ok(())
        })
    }

    fn set_block(&mut self, set: &ast::SetBlock<'a>, span: Span) -> Result {
        self.open(span, "set ");
        let attribute = match &set.target {
            Expr::GetAttr(target) => {
                self.push("py_text");
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
                w.push("py_text");
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
            self.push(", py_given");
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
            self.tag(&format!("if not py_given is py_gives('{id}', {id})"));
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
            self.tag(&format!("set py_read = [{names}]"));
            self.tag("endif");
        }
        Ok(())
    }

    // Expressions.

    fn filter_chain(&mut self, chain: &Expr<'a>) -> Result {
        let Expr::Filter(filter) = chain else { return refused("this filter", chain.span()) };
        if let Some(before) = &filter.expr {
            self.filter_chain(before)?;
            self.push("|");
        }
        self.filter_name(filter.name, filter.span())?;
        self.arguments(&filter.args, None)
    }

    fn filter_name(&mut self, name: &str, span: Span) -> Result {
        filters::known_filter(name).map_err(|e| at_line(e, span))?;
        self.push(name);
        Ok(())
    }

    /// An expression, in brackets where it binds less than `least`.
    fn expr(&mut self, expr: &Expr<'a>, least: u8) -> Result {
        self.to_line(expr.span());
        let brackets = level_of(expr, self.escapes) < least;
        self.push(if brackets { "(" } else { "" });
        self.bare(expr)?;
        self.push(if brackets { ")" } else { "" });
        Ok(())
    }

    fn bare(&mut self, expr: &Expr<'a>) -> Result {
        match expr {
            Expr::Var(var) => {
                own(var.id, var.span())?;
                match var.id {
                    "self" | "super" => refused(var.id, var.span()),
                    id => {
                        self.push(id);
                        Ok(())
                    }
                }
            }
            Expr::Const(value) => self.constant(&value.value, value.span()),
            Expr::Slice(slice) => {
                self.expr(&slice.expr, level::FILTER)?;
                self.push("|py_slice(");
                for (i, bound) in [&slice.start, &slice.stop, &slice.step].into_iter().enumerate() {
                    self.push(if i > 0 { ", " } else { "" });
                    match bound {
                        Some(bound) => self.expr(bound, level::ANY)?,
                        None => self.push("none"),
                    }
                }
                self.push(")");
                Ok(())
            }
            Expr::UnaryOp(op) => match (&op.op, &op.expr) {
                (UnaryOpKind::Not, inner) => {
                    self.push("not ");
                    self.expr(inner, level::NOT)
                }
                (UnaryOpKind::Neg, Expr::Const(value)) if value.value.is_number() => {
                    self.push("-");
                    self.constant(&value.value, value.span())
                }
                (UnaryOpKind::Neg, inner) => {
                    self.expr(inner, level::FILTER)?;
                    self.push("|py_neg");
                    Ok(())
                }
            },
            Expr::BinOp(op) => self.binary(op),
            Expr::Compare(chain) => {
                let mut left = &chain.expr;
                for (i, next) in chain.ops.iter().enumerate() {
                    self.push(if i > 0 { " and " } else { "" });
                    if i > 0 && has_call(left) {
                        return refused("a call inside a chain of comparisons", chain.span());
                    }
                    self.compare(next.op, left, &next.expr)?;
                    left = &next.expr;
                }
                Ok(())
            }
            Expr::IfExpr(choice) => {
                self.expr(&choice.true_expr, level::OR)?;
                self.push(" if ");
                self.expr(&choice.test_expr, level::OR)?;
                if let Some(otherwise) = &choice.false_expr {
                    self.push(" else ");
                    self.expr(otherwise, level::ANY)?;
                }
                Ok(())
            }
            Expr::Filter(filter) => {
                match &filter.expr {
                    Some(before) => self.expr(before, level::FILTER)?,
                    None => return refused("a filter of nothing", filter.span()),
                }
                self.push("|");
                self.filter_name(filter.name, filter.span())?;
                self.arguments(&filter.args, None)
            }
            Expr::Test(test) => {
                filters::known_test(test.name).map_err(|e| at_line(e, test.span()))?;
                self.expr(&test.expr, level::FILTER)?;
                // Without brackets the engine takes what follows for an argument.
                self.push(&format!(" is {}(", test.name));
                self.list(&test.args, None)?;
                self.push(")");
                Ok(())
            }
            Expr::GetAttr(attribute) => self.attribute(attribute),
            Expr::GetItem(item) => self.item(item),
            Expr::Call(call) => self.call(call),
            Expr::List(list) => {
                self.push("[");
                self.items(&list.items)?;
                self.push("]");
                Ok(())
            }
            Expr::Tuple(tuple) => {
                self.push("(");
                self.items(&tuple.items)?;
                self.push(if tuple.items.len() == 1 { ",)" } else { ")" });
                Ok(())
            }
            Expr::Map(map) => {
                self.push("{");
                for (i, (key, value)) in map.keys.iter().zip(&map.values).enumerate() {
                    if let Expr::List(_) | Expr::Map(_) = key {
                        return refused("a list or dict as a key", key.span());
                    }
                    self.push(if i > 0 { ", " } else { "" });
                    self.expr(key, level::ANY)?;
                    self.push(": ");
                    self.expr(value, level::ANY)?;
                }
                self.push("}");
                Ok(())
            }
        }
    }

    fn items(&mut self, items: &[Expr<'a>]) -> Result {
        for (i, item) in items.iter().enumerate() {
            self.push(if i > 0 { ", " } else { "" });
            self.expr(item, level::ANY)?;
        }
        Ok(())
    }

    fn constant(&mut self, value: &Value, span: Span) -> Result {
        match value.kind() {
            ValueKind::None => self.push("none"),
            ValueKind::Bool => self.push(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => self.push(&value.to_string()),
            ValueKind::Number => match f64::try_from(value.clone()) {
                Ok(x) if x.is_finite() => self.push(&printing::float(x).replace("e+", "e")),
                _ => return refused("a number this large", span),
            },
            ValueKind::String => {
                let text = value
                    .as_str()
                    .unwrap_or_default()
                    .replace('\\', "\\\\")
                    .replace('\'', "\\'")
                    .replace('\n', "\\n");
                self.push(&format!("'{text}'"));
            }
            _ => return refused("this constant", span),
        }
        Ok(())
    }

    fn binary(&mut self, op: &ast::BinOp<'a>) -> Result {
        let (left, right) = (&op.left, &op.right);
        let comparison = match op.op {
            BinOpKind::Eq => CompareOpKind::Eq,
            BinOpKind::Ne => CompareOpKind::Ne,
            BinOpKind::Lt => CompareOpKind::Lt,
            BinOpKind::Lte => CompareOpKind::Lte,
            BinOpKind::Gt => CompareOpKind::Gt,
            BinOpKind::Gte => CompareOpKind::Gte,
            BinOpKind::In => CompareOpKind::In,
            BinOpKind::Concat => return self.concat(op),
            BinOpKind::Add if self.escapes => return self.operator(left, "py_add", right),
            BinOpKind::Mul => return self.operator(left, "py_mul", right),
            BinOpKind::Rem => return self.operator(left, "py_mod", right),
            BinOpKind::Pow => return self.operator(left, "py_pow", right),
            BinOpKind::ScAnd => return self.infix(left, " and ", right, level::AND),
            BinOpKind::ScOr => return self.infix(left, " or ", right, level::OR),
            BinOpKind::Add => return self.infix(left, " + ", right, level::SUM),
            BinOpKind::Sub => return self.infix(left, " - ", right, level::SUM),
            BinOpKind::Div => return self.infix(left, " / ", right, level::PRODUCT),
            BinOpKind::FloorDiv => return self.infix(left, " // ", right, level::PRODUCT),
        };
        self.compare(comparison, left, right)
    }

    fn infix(&mut self, left: &Expr<'a>, operator: &str, right: &Expr<'a>, level: u8) -> Result {
        self.expr(left, level)?;
        self.push(operator);
        self.expr(right, level + 1)
    }

    fn operator(&mut self, left: &Expr<'a>, name: &str, right: &Expr<'a>) -> Result {
        self.expr(left, level::FILTER)?;
        self.push(&format!("|{name}("));
        self.expr(right, level::ANY)?;
        self.push(")");
        Ok(())
    }

    fn compare(&mut self, op: CompareOpKind, left: &Expr<'a>, right: &Expr<'a>) -> Result {
        let name = match op {
            CompareOpKind::Eq | CompareOpKind::Ne if is_plain(left) || is_plain(right) => {
                let operator = if matches!(op, CompareOpKind::Eq) { " == " } else { " != " };
                self.expr(left, level::SUM)?;
                self.push(operator);
                return self.expr(right, level::SUM);
            }
            CompareOpKind::Eq => "py_eq",
            CompareOpKind::Ne => "not py_eq",
            CompareOpKind::Lt => "py_lt",
            CompareOpKind::Lte => "py_le",
            CompareOpKind::Gt => "py_gt",
            CompareOpKind::Gte => "py_ge",
            CompareOpKind::In => "py_in",
            CompareOpKind::NotIn => "not py_in",
        };
        self.expr(left, level::FILTER)?;
        self.push(&format!(" is {name}("));
        self.expr(right, level::ANY)?;
        self.push(")");
        Ok(())
    }

    /// `a ~ b ~ c` in one.
    fn concat(&mut self, op: &ast::BinOp<'a>) -> Result {
        let mut parts = vec![&op.right];
        let mut first = &op.left;
        while let Expr::BinOp(inner) = first
            && matches!(inner.op, BinOpKind::Concat)
        {
            parts.push(&inner.right);
            first = &inner.left;
        }
        parts.reverse();
        self.expr(first, level::FILTER)?;
        // The engine takes so many arguments and not many more.
        for parts in parts.chunks(500) {
            self.push("|py_cat(");
            for (i, part) in parts.iter().enumerate() {
                self.push(if i > 0 { ", " } else { "" });
                self.expr(part, level::ANY)?;
            }
            self.push(")");
        }
        Ok(())
    }

    fn attribute(&mut self, attribute: &ast::GetAttr<'a>) -> Result {
        let name = attribute.name;
        if let Expr::Var(var) = &attribute.expr
            && self.macros.contains_key(var.id)
        {
            return refused(format!("the attribute {name} of a macro"), attribute.expr.span());
        }
        if methods::is_name(name) {
            self.expr(&attribute.expr, level::FILTER)?;
            self.push(&format!("|py_attr('{name}')"));
        } else {
            self.expr(&attribute.expr, level::PRIMARY)?;
            self.push(&format!(".{name}"));
        }
        Ok(())
    }

    fn item(&mut self, item: &ast::GetItem<'a>) -> Result {
        let is_simple = match &item.subscript_expr {
            Expr::Const(key) => match key.value.as_str() {
                Some(name) => !methods::is_name(name),
                None => key.value.is_integer(),
            },
            Expr::UnaryOp(sign) => {
                matches!((&sign.op, &sign.expr), (UnaryOpKind::Neg, Expr::Const(key)) if key.value.is_integer())
            }
            _ => false,
        };
        if !is_simple {
            return self.operator(&item.expr, "py_item", &item.subscript_expr);
        }
        self.expr(&item.expr, level::PRIMARY)?;
        self.push("[");
        self.expr(&item.subscript_expr, level::ANY)?;
        self.push("]");
        Ok(())
    }

    fn call(&mut self, call: &ast::Call<'a>) -> Result {
        let mut given = None;
        match &call.expr {
            Expr::Var(var) if var.id == "loop" => {
                // What a loop goes over in itself is what it goes over.
                self.push("loop(");
                match call.args.as_slice() {
                    [CallArg::Pos(over)] => self.expr(over, level::FILTER)?,
                    _ => return refused("loop with other than one argument", call.expr.span()),
                }
                self.push("|py_iter)");
                return Ok(());
            }
            Expr::Var(var) => {
                given = self.given(var.id, &call.args);
                self.expr(&call.expr, level::PRIMARY)?;
            }
            Expr::GetAttr(method) => {
                if let Expr::Var(var) = &method.expr
                    && self.macros.contains_key(var.id)
                {
                    return refused("an attribute of a macro", call.expr.span());
                }
                self.expr(&method.expr, level::PRIMARY)?;
                self.push(&format!(".{}", method.name));
            }
            other => self.expr(other, level::PRIMARY)?,
        }
        self.push("(");
        self.list(&call.args, given.as_deref())?;
        self.push(")");
        Ok(())
    }

    /// Which parameters of a macro a call gives, as far as it can be seen.
    fn given(&self, name: &str, args: &[CallArg<'a>]) -> Option<String> {
        let signature = self.macros.get(name).filter(|signature| signature.defaults > 0)?;
        let mut names = Vec::new();
        for (i, arg) in args.iter().enumerate() {
            match arg {
                CallArg::Pos(_) => names.extend(signature.parameters.get(i).map(|name| format!("'{name}'"))),
                CallArg::Kwarg(name, _) => names.push(format!("'{name}'")),
                CallArg::PosSplat(_) | CallArg::KwargSplat(_) => return None,
            }
        }
        Some(format!("py_given=[{}]", names.join(", ")))
    }

    fn arguments(&mut self, args: &[CallArg<'a>], more: Option<&str>) -> Result {
        if !args.is_empty() {
            self.push("(");
            self.list(args, more)?;
            self.push(")");
        }
        Ok(())
    }

    fn list(&mut self, args: &[CallArg<'a>], more: Option<&str>) -> Result {
        let mut first = true;
        for arg in args {
            self.push(if first { "" } else { ", " });
            first = false;
            let value = match arg {
                CallArg::Pos(value) => value,
                CallArg::Kwarg(name, value) => {
                    self.push(&format!("{name}="));
                    value
                }
                CallArg::PosSplat(value) => {
                    self.push("*");
                    value
                }
                CallArg::KwargSplat(value) => {
                    self.push("**");
                    value
                }
            };
            self.expr(value, level::ANY)?;
        }
        if let Some(more) = more {
            self.push(if first { "" } else { ", " });
            self.push(more);
        }
        Ok(())
    }
}

fn at_line(error: Error, span: Span) -> TemplateError {
    TemplateError::Syntax { line: Some(span.start_line.into()), message: describe(&error) }
}

/// A constant that equals what it equals in Python too.
fn is_plain(expr: &Expr) -> bool {
    matches!(expr, Expr::Const(_))
}

/// How closely what is written for an expression binds.
fn level_of(expr: &Expr, escapes: bool) -> u8 {
    match expr {
        Expr::IfExpr(_) => level::ANY,
        Expr::Compare(_) => level::AND,
        Expr::UnaryOp(op) => match (&op.op, &op.expr) {
            (UnaryOpKind::Not, _) => level::NOT,
            (UnaryOpKind::Neg, Expr::Const(value)) if value.value.is_number() => level::SIGN,
            (UnaryOpKind::Neg, _) => level::FILTER,
        },
        Expr::BinOp(op) => match op.op {
            BinOpKind::ScOr => level::OR,
            BinOpKind::ScAnd => level::AND,
            BinOpKind::Eq | BinOpKind::Ne if is_plain(&op.left) || is_plain(&op.right) => level::COMPARE,
            BinOpKind::Eq
            | BinOpKind::Ne
            | BinOpKind::Lt
            | BinOpKind::Lte
            | BinOpKind::Gt
            | BinOpKind::Gte
            | BinOpKind::In => level::FILTER,
            BinOpKind::Add if escapes => level::FILTER,
            BinOpKind::Add | BinOpKind::Sub => level::SUM,
            BinOpKind::Div | BinOpKind::FloorDiv => level::PRODUCT,
            BinOpKind::Mul | BinOpKind::Rem | BinOpKind::Pow | BinOpKind::Concat => level::FILTER,
        },
        Expr::Filter(_) | Expr::Test(_) | Expr::Slice(_) => level::FILTER,
        Expr::GetAttr(attribute) if methods::is_name(attribute.name) => level::FILTER,
        Expr::GetItem(item) => match &item.subscript_expr {
            Expr::Const(key) if key.value.is_integer() => level::PRIMARY,
            Expr::Const(key) if key.value.as_str().is_some_and(|name| !methods::is_name(name)) => {
                level::PRIMARY
            }
            Expr::UnaryOp(sign) if matches!((&sign.op, &sign.expr), (UnaryOpKind::Neg, Expr::Const(key)) if key.value.is_integer()) => {
                level::PRIMARY
            }
            _ => level::FILTER,
        },
        Expr::GetAttr(_)
        | Expr::Var(_)
        | Expr::Const(_)
        | Expr::Call(_)
        | Expr::List(_)
        | Expr::Tuple(_)
        | Expr::Map(_) => level::PRIMARY,
    }
}

/// Whether a body sets something in its own scope.
fn sets(body: &[Stmt]) -> bool {
    body.iter().any(|statement| match statement {
        Stmt::Set(set) => !matches!(set.target, Expr::GetAttr(_)),
        Stmt::SetBlock(_) | Stmt::Macro(_) => true,
        Stmt::IfCond(stmt) => sets(&stmt.true_body) || sets(&stmt.false_body),
        _ => false,
    })
}

fn collect_macros<'a>(body: &[Stmt<'a>], macros: &mut HashMap<&'a str, Signature<'a>>) {
    for statement in body {
        each_body(statement, &mut |body| collect_macros(body, macros));
        if let Stmt::Macro(stmt) = statement {
            let name = |parameter: &Expr<'a>| match parameter {
                Expr::Var(var) => Some(var.id),
                _ => None,
            };
            let parameters = stmt.args.iter().filter_map(name).collect();
            macros.insert(stmt.name, Signature { parameters, defaults: stmt.defaults.len() });
        }
    }
}

/// The bodies inside a statement.
fn each_body<'s, 'a>(statement: &'s Stmt<'a>, visit: &mut dyn FnMut(&'s [Stmt<'a>])) {
    match statement {
        Stmt::Template(stmt) => visit(&stmt.children),
        Stmt::ForLoop(stmt) => {
            visit(&stmt.body);
            visit(&stmt.else_body);
        }
        Stmt::IfCond(stmt) => {
            visit(&stmt.true_body);
            visit(&stmt.false_body);
        }
        Stmt::WithBlock(stmt) => visit(&stmt.body),
        Stmt::SetBlock(stmt) => visit(&stmt.body),
        Stmt::FilterBlock(stmt) => visit(&stmt.body),
        Stmt::AutoEscape(stmt) => visit(&stmt.body),
        Stmt::Block(stmt) => visit(&stmt.body),
        Stmt::Macro(stmt) => visit(&stmt.body),
        Stmt::CallBlock(stmt) => visit(&stmt.macro_decl.body),
        Stmt::EmitExpr(_)
        | Stmt::EmitRaw(_)
        | Stmt::Set(_)
        | Stmt::Do(_)
        | Stmt::Continue(_)
        | Stmt::Break(_) => {}
        Stmt::Include(_) | Stmt::Import(_) | Stmt::FromImport(_) | Stmt::Extends(_) => {}
    }
}

/// The names that a body reads or sets.
fn names_of<'a>(body: &[Stmt<'a>], names: &mut BTreeSet<&'a str>) {
    for statement in body {
        let mut of = |expr: &Expr<'a>| names_of_expr(expr, names);
        match statement {
            Stmt::EmitExpr(stmt) => of(&stmt.expr),
            Stmt::ForLoop(stmt) => {
                of(&stmt.iter);
                of(&stmt.target);
                stmt.filter_expr.iter().for_each(of);
            }
            Stmt::IfCond(stmt) => of(&stmt.expr),
            Stmt::WithBlock(stmt) => stmt.assignments.iter().for_each(|(target, value)| {
                of(target);
                of(value);
            }),
            Stmt::Set(stmt) => {
                of(&stmt.target);
                of(&stmt.expr);
            }
            Stmt::SetBlock(stmt) => {
                of(&stmt.target);
                stmt.filter.iter().for_each(of);
            }
            Stmt::FilterBlock(stmt) => of(&stmt.filter),
            Stmt::Macro(stmt) => stmt.defaults.iter().for_each(of),
            Stmt::CallBlock(stmt) => {
                of(&stmt.call.expr);
                args_of(&stmt.call.args).for_each(of);
            }
            _ => {}
        }
        each_body(statement, &mut |body| names_of(body, names));
    }
}

fn args_of<'s, 'a>(args: &'s [CallArg<'a>]) -> impl Iterator<Item = &'s Expr<'a>> {
    args.iter().map(|arg| match arg {
        CallArg::Pos(value)
        | CallArg::Kwarg(_, value)
        | CallArg::PosSplat(value)
        | CallArg::KwargSplat(value) => value,
    })
}

/// The parts of an expression.
fn parts_of<'s, 'a>(expr: &'s Expr<'a>) -> Vec<&'s Expr<'a>> {
    match expr {
        Expr::Var(_) | Expr::Const(_) => Vec::new(),
        Expr::Slice(slice) => {
            let bounds = [&slice.start, &slice.stop, &slice.step].into_iter().flatten();
            std::iter::once(&slice.expr).chain(bounds).collect()
        }
        Expr::UnaryOp(op) => vec![&op.expr],
        Expr::BinOp(op) => vec![&op.left, &op.right],
        Expr::Compare(chain) => {
            std::iter::once(&chain.expr).chain(chain.ops.iter().map(|op| &op.expr)).collect()
        }
        Expr::IfExpr(choice) => {
            [&choice.test_expr, &choice.true_expr].into_iter().chain(&choice.false_expr).collect()
        }
        Expr::Filter(filter) => filter.expr.iter().chain(args_of(&filter.args)).collect(),
        Expr::Test(test) => std::iter::once(&test.expr).chain(args_of(&test.args)).collect(),
        Expr::GetAttr(attribute) => vec![&attribute.expr],
        Expr::GetItem(item) => vec![&item.expr, &item.subscript_expr],
        Expr::Call(call) => std::iter::once(&call.expr).chain(args_of(&call.args)).collect(),
        Expr::List(list) => list.items.iter().collect(),
        Expr::Tuple(tuple) => tuple.items.iter().collect(),
        Expr::Map(map) => map.keys.iter().chain(&map.values).collect(),
    }
}

fn names_of_expr<'a>(expr: &Expr<'a>, names: &mut BTreeSet<&'a str>) {
    let mut waiting = vec![expr];
    while let Some(expr) = waiting.pop() {
        if let Expr::Var(var) = expr {
            names.insert(var.id);
        }
        waiting.extend(parts_of(expr));
    }
}

fn has_call(expr: &Expr) -> bool {
    let mut waiting = vec![expr];
    while let Some(expr) = waiting.pop() {
        if let Expr::Call(_) = expr {
            return true;
        }
        waiting.extend(parts_of(expr));
    }
    false
}
