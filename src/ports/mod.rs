//! The seams: one file per kind of adapter, with its trait, its `…Kind` row and its error.
//!
//! To add an adapter: one file in the folder of its kind, one `mod` line and one row in that folder's `ALL`. Everything that
//! lists adapters (validation, schema, help, `plan`) reads the [`Registry`].

pub mod durable;
pub mod model;
pub mod publisher;
pub mod sandbox;
pub mod service;
pub mod sink;
pub mod source;
pub mod step;
pub mod tool;

/// The tables of what ships; made in `builtin`.
#[derive(Clone, Copy, Debug)]
pub struct Registry {
    pub steps: &'static [step::StepKind],
    pub tools: &'static [tool::ToolKind],
    pub sources: &'static [source::SourceKind],
    pub sinks: &'static [sink::SinkKind],
    pub models: &'static [model::ModelKind],
    pub sandboxes: &'static [sandbox::SandboxKind],
    pub publishers: &'static [publisher::PublisherKind],
}

impl Registry {
    pub fn step(&self, name: &str) -> Option<&'static step::StepKind> {
        self.steps.iter().find(|kind| kind.name == name)
    }
    pub fn tool(&self, name: &str) -> Option<&'static tool::ToolKind> {
        self.tools.iter().find(|kind| kind.name == name)
    }
    pub fn source(&self, name: &str) -> Option<&'static source::SourceKind> {
        self.sources.iter().find(|kind| kind.name == name)
    }
    pub fn sink(&self, name: &str) -> Option<&'static sink::SinkKind> {
        self.sinks.iter().find(|kind| kind.name == name)
    }
    pub fn sandbox(&self, name: &str) -> Option<&'static sandbox::SandboxKind> {
        self.sandboxes.iter().find(|kind| kind.name == name)
    }
    pub fn publisher(&self, name: &str) -> Option<&'static publisher::PublisherKind> {
        self.publishers.iter().find(|kind| kind.name == name)
    }
    pub fn model(&self, name: &str) -> Option<&'static model::ModelKind> {
        self.models.iter().find(|kind| kind.name == name)
    }
}
