// Renders conversations with Go's text/template as Ollama does (template/template.go): reads the JSON that
// crates/data/tests/integration/go_templates.rs writes, and writes it with what each template gives.
//
//	GO_TEMPLATES_OUT=/tmp/templates.json cargo test -p lorafit-data --test integration go_templates
//	go run scripts/render_go_templates.go < /tmp/templates.json > fixtures/ollama/templates.json
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"text/template"
)

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type goTemplate struct {
	Refused  string   `json:"refused,omitempty"`
	Template string   `json:"template,omitempty"`
	System   string   `json:"system,omitempty"`
	Stop     []string `json:"stop,omitempty"`
	Notes    []string `json:"notes,omitempty"`
	Rendered []string `json:"rendered,omitempty"`
}

type file struct {
	Conversations [][]message           `json:"conversations"`
	Templates     map[string]goTemplate `json:"templates"`
}

func main() {
	var f file
	if err := json.NewDecoder(os.Stdin).Decode(&f); err != nil {
		panic(err)
	}
	for name, t := range f.Templates {
		if t.Template == "" {
			continue
		}
		parsed, err := template.New("").Option("missingkey=zero").Parse(t.Template)
		if err != nil {
			panic(fmt.Sprintf("%s: %v", name, err))
		}
		t.Rendered = nil
		for _, messages := range f.Conversations {
			// The model's own SYSTEM stands in where a conversation has none (server/routes.go, ChatHandler).
			if messages[0].Role != "system" && t.System != "" {
				messages = append([]message{{"system", t.System}}, messages...)
			}
			var system []string
			for _, m := range messages {
				if m.Role == "system" {
					system = append(system, m.Content)
				}
			}
			var text bytes.Buffer
			values := map[string]any{"System": strings.Join(system, "\n\n"), "Messages": messages, "Response": ""}
			if err := parsed.Execute(&text, values); err != nil {
				panic(fmt.Sprintf("%s: %v", name, err))
			}
			t.Rendered = append(t.Rendered, text.String())
		}
		f.Templates[name] = t
	}
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	out.SetIndent("", " ")
	if err := out.Encode(f); err != nil {
		panic(err)
	}
}
