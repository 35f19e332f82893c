"""The report of a study: verdict, tables, figures, gallery; as HTML, Markdown and in W&B."""
