package main

import (
	"bytes"
	"embed"
	"os"
	"text/template"
)

//go:embed templates
var templateFiles embed.FS

var templates = template.Must(template.ParseFS(templateFiles, "templates/*"))

// render writes the template of that name, filled with data, to a file.
func render(name, path string, data any) error {
	var text bytes.Buffer
	if err := templates.ExecuteTemplate(&text, name, data); err != nil {
		return err
	}
	return os.WriteFile(path, text.Bytes(), 0o644)
}
