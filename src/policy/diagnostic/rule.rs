//! The rules that documents can break. Their ids are a promise: CI and editors filter by them.

/// Defines the rules with their ids and what they ask for.
macro_rules! rules {
    ($($rule:ident $id:literal $summary:literal,)*) => {
        /// A rule that documents can break.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule {
            $(#[doc = $summary] $rule,)*
        }

        impl Rule {
            /// All rules.
            pub const ALL: &'static [Rule] = &[$(Rule::$rule,)*];

            /// The stable id, such as `yaml/syntax`.
            pub fn id(self) -> &'static str {
                match self {
                    $(Self::$rule => $id,)*
                }
            }

            /// What the rule asks for, in a sentence.
            pub fn summary(self) -> &'static str {
                match self {
                    $(Self::$rule => $summary,)*
                }
            }
        }
    };
}

rules! {
    FileUnreadable "file/unreadable" "A file of documents can be read.",
    FileTooLarge "file/too-large" "A file of documents is at most 4 MiB large.",
    FileEncoding "file/encoding" "A file of documents is UTF-8 text.",
    FileLfsPointer "file/lfs-pointer" "A file of documents holds the documents, not a pointer to Git LFS.",
    FileTooManyFindings "file/too-many-findings" "A file has fewer than 200 findings.",
    YamlSyntax "yaml/syntax" "A document is well-formed YAML.",
    YamlDuplicateKey "yaml/duplicate-key" "A key stands once in a mapping.",
    YamlKey "yaml/key" "Keys are text.",
    YamlMergeKey "yaml/merge-key" "Merge keys (`<<`) are not used.",
    YamlAlias "yaml/alias" "An alias names a finished value.",
    YamlTag "yaml/tag" "Only the tags of the YAML core schema are used.",
    YamlLimit "yaml/limit" "Documents keep within the limits on nesting and number of values.",
    DocumentShape "document/shape" "A document is a mapping.",
    DocumentApiVersion "document/api-version" "A document names an API version that is known.",
    DocumentKind "document/kind" "A document is of a kind that is known.",
    UnknownField "document/unknown-field" "Only fields that exist are written.",
    MissingField "document/missing-field" "Fields that are needed are written.",
    WrongType "document/type" "A value is of the type that its field takes.",
    WrongValue "document/value" "A value is one of those that its field takes.",
    Name "document/name" "Names are lower-case letters, digits and inner `-`, at most 52 characters.",
    DuplicateName "document/duplicate-name" "Names are unique.",
    DuplicateSettings "document/duplicate-settings" "There is at most one Settings document.",
    ExactlyOne "document/exactly-one" "Of fields that exclude each other exactly one is written.",
    Empty "document/empty" "Lists and texts that are needed are not empty.",
    AbsolutePath "document/absolute-path" "Paths on this host are absolute.",
    Pattern "document/glob" "Globs can be read.",
    SecretLiteral "secret/literal" "A secret is a reference, never a literal.",
    SecretReference "secret/reference" "A secret names exactly one place, completely.",
    Schedule "policy/schedule" "A schedule is a cron expression that has a next time.",
    DuplicateSchedule "policy/duplicate-schedule" "A schedule stands once in a list.",
    TimeZone "policy/time-zone" "A time zone is known.",
    Retention "policy/retention" "Keep rules are not negative, `-1` aside.",
    KeepsNothing "policy/keeps-nothing" "The keep rules keep at least one restore point.",
    Quiesce "policy/quiesce" "A cold policy says how to stop and start what writes.",
    UnknownRepository "policy/unknown-repository" "Repositories that a policy names exist.",
    Percentage "document/percentage" "Shares are written as a percentage from 0% to 100%.",
    Bandwidth "policy/bandwidth" "A bandwidth is a size for each second.",
    Misplaced "document/misplaced" "A field stands where it has an effect.",
    Engine "engine/unsupported" "Only what the engine can do is asked for.",
    NotAvailable "engine/not-available" "What is not available yet is not used.",
    RestorePolicy "restore/unknown-policy" "A restore names a policy that exists, or existed.",
    RestoreSource "restore/unknown-source" "A restore names sources of its policy.",
    RestoreConflict "restore/conflict" "Only one restore writes into a place.",
    TenantNamespace "tenant/namespace" "A document names only namespaces that its directory is allowed.",
    TenantRepository "tenant/repository" "A document names only repositories that its directory is allowed.",
    TenantDirectory "tenant/directory" "Where there are tenants, every document is in a directory of one, and only `.` holds Settings.",
}
