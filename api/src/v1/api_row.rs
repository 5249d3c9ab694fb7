//! Objects of responses that have the fields of a row.

/// Defines an object with the fields of a row of the store, and its conversion.
macro_rules! api_row {
    (
        $(#[$meta:meta])*
        $name:ident from $row:ty { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }
    ) => {
        #[derive(Debug, serde::Serialize, utoipa::ToSchema)]
        $(#[$meta])*
        pub(super) struct $name { $($(#[$field_meta])* pub(super) $field: $type,)* }

        impl From<$row> for $name {
            fn from(row: $row) -> Self {
                Self { $($field: row.$field.into(),)* }
            }
        }
    };
}

pub(super) use api_row;
