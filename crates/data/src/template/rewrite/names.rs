//! Which names, macros and bodies a part of a template has.

use std::collections::{BTreeSet, HashMap, HashSet};

use ast::{CallArg, Expr, Stmt};
use minijinja::machinery::ast;

use super::Signature;

/// Whether a body sets something in its own scope.
pub(super) fn sets(body: &[Stmt]) -> bool {
    body.iter().any(|statement| match statement {
        Stmt::Set(set) => !matches!(set.target, Expr::GetAttr(_)),
        Stmt::SetBlock(_) | Stmt::Macro(_) => true,
        Stmt::IfCond(stmt) => sets(&stmt.true_body) || sets(&stmt.false_body),
        _ => false,
    })
}

pub(super) fn collect_macros<'a>(body: &[Stmt<'a>], macros: &mut HashMap<&'a str, Signature<'a>>) {
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

/// The variables that are only ever set to a namespace.
pub(super) fn namespaces<'a>(template: &Stmt<'a>) -> HashSet<&'a str> {
    let (mut set, mut other) = (HashSet::new(), BTreeSet::new());
    assigned(std::slice::from_ref(template), &mut set, &mut other);
    set.retain(|name| !other.contains(name));
    set
}

/// The names of loops, of parameters, and of what is set to anything but a namespace.
pub(super) fn assigned_names<'a>(template: &Stmt<'a>) -> BTreeSet<&'a str> {
    let mut other = BTreeSet::new();
    assigned(std::slice::from_ref(template), &mut HashSet::new(), &mut other);
    other
}

fn assigned<'a>(body: &[Stmt<'a>], namespaces: &mut HashSet<&'a str>, other: &mut BTreeSet<&'a str>) {
    for statement in body {
        match statement {
            Stmt::Set(set) => match (&set.target, &set.expr) {
                (Expr::Var(name), Expr::Call(call)) if matches!(&call.expr, Expr::Var(f) if f.id == "namespace") =>
                {
                    namespaces.insert(name.id);
                }
                (Expr::GetAttr(_), _) => {}
                (target, _) => names_of_expr(target, other),
            },
            Stmt::SetBlock(set) if !matches!(set.target, Expr::GetAttr(_)) => {
                names_of_expr(&set.target, other)
            }
            Stmt::ForLoop(stmt) => names_of_expr(&stmt.target, other),
            Stmt::WithBlock(stmt) => {
                stmt.assignments.iter().for_each(|(target, _)| names_of_expr(target, other))
            }
            Stmt::Macro(stmt) => stmt.args.iter().for_each(|parameter| names_of_expr(parameter, other)),
            Stmt::CallBlock(block) => {
                block.macro_decl.args.iter().for_each(|parameter| names_of_expr(parameter, other));
            }
            _ => {}
        }
        each_body(statement, &mut |body| assigned(body, namespaces, other));
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
pub(super) fn names_of<'a>(body: &[Stmt<'a>], names: &mut BTreeSet<&'a str>) {
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

pub(super) fn names_of_expr<'a>(expr: &Expr<'a>, names: &mut BTreeSet<&'a str>) {
    let mut waiting = vec![expr];
    while let Some(expr) = waiting.pop() {
        if let Expr::Var(var) = expr {
            names.insert(var.id);
        }
        waiting.extend(parts_of(expr));
    }
}

pub(super) fn has_call(expr: &Expr) -> bool {
    let mut waiting = vec![expr];
    while let Some(expr) = waiting.pop() {
        if let Expr::Call(_) = expr {
            return true;
        }
        waiting.extend(parts_of(expr));
    }
    false
}
