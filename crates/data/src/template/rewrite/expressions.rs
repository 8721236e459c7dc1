//! Expressions, with brackets where they need them and calls of our own where the engine's operators differ.

use ast::{BinOpKind, CallArg, CompareOpKind, Expr, UnaryOpKind};
use minijinja::machinery::{Span, ast};
use minijinja::value::ValueKind;
use minijinja::{Error, Value};

use super::names::has_call;
use super::{Result, Writer, own, refused};
use crate::template::{TemplateError, describe, filters, methods, printing};

/// Which levels of precedence an expression may have where it stands.
pub(super) mod level {
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

impl<'a> Writer<'a> {
    pub(super) fn filter_chain(&mut self, chain: &Expr<'a>) -> Result {
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
    pub(super) fn expr(&mut self, expr: &Expr<'a>, least: u8) -> Result {
        self.go_to_line(expr.span());
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
            Expr::Slice(slice) => self.slice(slice),
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
                    self.push("|lorafit_neg");
                    Ok(())
                }
            },
            Expr::BinOp(op) => self.binary(op),
            Expr::Compare(chain) => self.chain(chain, chain.span()),
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
                // The engine writes values into text in a way of its own.
                self.push(if filters::TAKE_TEXT.contains(&filter.name) { "|string|" } else { "|" });
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
            Expr::Map(map) => self.map(map),
        }
    }

    fn slice(&mut self, slice: &ast::Slice<'a>) -> Result {
        self.expr(&slice.expr, level::FILTER)?;
        self.push("|lorafit_slice(");
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

    fn chain(&mut self, chain: &ast::Compare<'a>, span: Span) -> Result {
        let mut left = &chain.expr;
        for (i, next) in chain.ops.iter().enumerate() {
            self.push(if i > 0 { " and " } else { "" });
            if i > 0 && has_call(left) {
                return refused("a call inside a chain of comparisons", span);
            }
            self.compare(next.op, left, &next.expr)?;
            left = &next.expr;
        }
        Ok(())
    }

    fn map(&mut self, map: &ast::Map<'a>) -> Result {
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
            BinOpKind::Add if self.escapes => return self.operator(left, "lorafit_add", right),
            BinOpKind::Mul => return self.operator(left, "lorafit_mul", right),
            BinOpKind::Rem if is_native(op) => return self.infix(left, " % ", right, level::PRODUCT),
            BinOpKind::Rem => return self.operator(left, "lorafit_mod", right),
            BinOpKind::Pow => return self.operator(left, "lorafit_pow", right),
            BinOpKind::ScAnd => return self.infix(left, " and ", right, level::AND),
            BinOpKind::ScOr => return self.infix(left, " or ", right, level::OR),
            BinOpKind::Add => return self.infix(left, " + ", right, level::SUM),
            BinOpKind::Sub => return self.infix(left, " - ", right, level::SUM),
            BinOpKind::Div => return self.infix(left, " / ", right, level::PRODUCT),
            BinOpKind::FloorDiv => return self.infix(left, " // ", right, level::PRODUCT),
        };
        if is_native(op) {
            let operator = match comparison {
                CompareOpKind::Ne => " != ",
                CompareOpKind::Lt => " < ",
                CompareOpKind::Lte => " <= ",
                CompareOpKind::Gt => " > ",
                CompareOpKind::Gte => " >= ",
                _ => " == ",
            };
            self.expr(left, level::SUM)?;
            self.push(operator);
            return self.expr(right, level::SUM);
        }
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
            CompareOpKind::Eq => "lorafit_eq",
            CompareOpKind::Ne => "not lorafit_eq",
            CompareOpKind::Lt => "lorafit_lt",
            CompareOpKind::Lte => "lorafit_le",
            CompareOpKind::Gt => "lorafit_gt",
            CompareOpKind::Gte => "lorafit_ge",
            CompareOpKind::In => "lorafit_in",
            CompareOpKind::NotIn => "not lorafit_in",
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
            self.push("|lorafit_cat(");
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
        let of_namespace = matches!(&attribute.expr, Expr::Var(var) if self.namespaces.contains(var.id));
        if methods::is_name(name) && !of_namespace {
            self.expr(&attribute.expr, level::FILTER)?;
            self.push(&format!("|lorafit_attr('{name}')"));
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
            return self.operator(&item.expr, "lorafit_item", &item.subscript_expr);
        }
        self.expr(&item.expr, level::PRIMARY)?;
        self.push("[");
        self.expr(&item.subscript_expr, level::ANY)?;
        self.push("]");
        Ok(())
    }

    pub(super) fn call(&mut self, call: &ast::Call<'a>) -> Result {
        let mut given = None;
        match &call.expr {
            Expr::Var(var) if var.id == "loop" => {
                // What a loop goes over in itself is what it goes over.
                self.push("loop(");
                match call.args.as_slice() {
                    [CallArg::Pos(over)] => self.expr(over, level::FILTER)?,
                    _ => return refused("loop with other than one argument", call.expr.span()),
                }
                self.push("|lorafit_iter)");
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
                if method.name == "fromkeys" {
                    self.expr(&method.expr, level::FILTER)?;
                    self.push("|lorafit_fromkeys");
                    return self.arguments(&call.args, None);
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
        Some(format!("lorafit_given=[{}]", names.join(", ")))
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

/// Whether the engine does an operator as Python does, as far as can be seen: it is faster than a call of ours.
fn is_native(op: &ast::BinOp) -> bool {
    match op.op {
        BinOpKind::Eq | BinOpKind::Ne => is_plain(&op.left) || is_plain(&op.right),
        BinOpKind::Lt | BinOpKind::Lte | BinOpKind::Gt | BinOpKind::Gte => {
            is_number(&op.left) && is_number(&op.right)
        }
        BinOpKind::Rem => {
            let by = match &op.right {
                Expr::Const(by) if by.value.is_integer() => by.value.is_true(),
                _ => false,
            };
            is_number(&op.left) && by
        }
        _ => false,
    }
}

/// What is a constant, true or false equals what it equals in Python too.
fn is_plain(expr: &Expr) -> bool {
    match expr {
        Expr::Const(_) | Expr::Test(_) | Expr::Compare(_) => true,
        Expr::UnaryOp(op) => matches!(op.op, UnaryOpKind::Not),
        Expr::BinOp(op) => {
            use BinOpKind::{Eq, Gt, Gte, In, Lt, Lte, Ne};
            matches!(op.op, Eq | Ne | Lt | Lte | Gt | Gte | In)
        }
        _ => false,
    }
}

/// What is a number whatever a template is given.
fn is_number(expr: &Expr) -> bool {
    match expr {
        Expr::Const(value) => value.value.is_number(),
        Expr::GetAttr(attribute) => {
            matches!(&attribute.expr, Expr::Var(var) if var.id == "loop")
                && matches!(attribute.name, "index" | "index0" | "revindex" | "revindex0")
        }
        Expr::Filter(filter) => matches!(filter.name, "length" | "count"),
        Expr::BinOp(op) => {
            matches!(op.op, BinOpKind::Add | BinOpKind::Sub) && is_number(&op.left) && is_number(&op.right)
        }
        _ => false,
    }
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
            BinOpKind::Rem if is_native(op) => level::PRODUCT,
            _ if is_native(op) => level::COMPARE,
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
