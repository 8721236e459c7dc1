//! What a data set calls its fields and roles, where that is not what the shapes call them.

use serde_json::Value;

use super::{Fields, Role};
use crate::error::RowProblem;

/// Names to read otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mapping {
    /// Columns and the fields they are.
    pub columns: Vec<(String, String)>,
    /// Names of roles and the roles they are.
    pub roles: Vec<(String, Role)>,
}

impl Mapping {
    /// Every field that a column can be.
    pub const FIELDS: [&str; 17] = [
        "messages",
        "conversations",
        "instruction",
        "input",
        "output",
        "prompt",
        "completion",
        "text",
        "question",
        "answer",
        "chosen",
        "rejected",
        "label",
        "system",
        "tools",
        "history",
        Self::IGNORE,
    ];
    /// What a column is that is not to be read.
    pub const IGNORE: &str = "ignore";
    /// Those that a row may lack.
    const OPTIONAL: [&str; 5] = ["input", "system", "tools", "history", Self::IGNORE];

    /// The row with its fields under their names.
    ///
    /// # Errors
    /// When it lacks a column that is to be a field no row may lack.
    pub fn rename(&self, mut fields: Fields) -> Result<Fields, RowProblem> {
        let lacks = |column: &String, field: &String, fields: &Fields| {
            let found = fields.keys().cloned().collect();
            RowProblem::NoColumn { column: column.clone(), field: field.clone(), found }
        };
        let is_optional = |field: &String| Self::OPTIONAL.contains(&field.as_str());
        for (column, field) in &self.columns {
            if !fields.contains_key(column) && !is_optional(field) {
                return Err(lacks(column, field, &fields));
            }
        }
        // All are taken before any is put back, so that two can change places.
        let taken: Vec<(&String, &String, Option<Value>)> =
            self.columns.iter().map(|(column, field)| (column, field, fields.shift_remove(column))).collect();
        for (column, field, value) in taken {
            match value {
                Some(_) if field == Self::IGNORE => {}
                Some(value) => drop(fields.insert(field.clone(), value)),
                None if is_optional(field) => {}
                // Another field has taken it.
                None => return Err(lacks(column, field, &fields)),
            }
        }
        Ok(fields)
    }

    /// The role of that name.
    pub fn role(&self, name: &str) -> Option<Role> {
        let mapped = self.roles.iter().find(|(from, _)| from == name).map(|(_, role)| *role);
        mapped.or_else(|| Role::named(name))
    }
}
