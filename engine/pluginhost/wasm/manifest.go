package wasm

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"blockengine/sdk/abi"
	"blockengine/sdk/manifest"
)

// Limits on what a manifest may hold.
const (
	maxManifest   = 64 << 10 // bytes of text
	maxOptions    = 64
	maxNameLength = 64
	maxTextLength = 1024
)

// manifestText is the JSON form of a manifest, as manifest.AppendJSON writes
// it. Keys that it does not know are a later minor version's and pass.
type manifestText struct {
	Kind    string       `json:"kind"`
	Name    string       `json:"name"`
	Version string       `json:"version"`
	Payload string       `json:"payload"`
	Options []optionText `json:"options"`
}

type optionText struct {
	Name     string `json:"name"`
	Type     string `json:"type"`
	Required bool   `json:"required"`
	Secret   bool   `json:"secret"`
	Help     string `json:"help"`
}

// parseManifest checks what be_manifest returned. version is what be_abi said.
func parseManifest(text []byte, version uint32) (manifest.Manifest, error) {
	var t manifestText
	m := manifest.Manifest{ABI: version, Payload: manifest.Direct}
	if !utf8.Valid(text) {
		return m, fmt.Errorf("its manifest is not UTF-8")
	}
	if err := json.Unmarshal(text, &t); err != nil {
		return m, fmt.Errorf("its manifest is no JSON: %w", err)
	}
	if t.Kind != "protocol" {
		return m, fmt.Errorf("its manifest says kind %.40q: the wasm runtime runs plugins of kind \"protocol\"", t.Kind)
	}
	if err := checkName("name", t.Name); err != nil {
		return m, err
	}
	if len(t.Version) > maxNameLength || !printable(t.Version) {
		return m, fmt.Errorf("its manifest says version %.80q: at most %d printable characters", t.Version, maxNameLength)
	}
	switch manifest.Payload(t.Payload) {
	case manifest.Direct, manifest.Copy:
		m.Payload = manifest.Payload(t.Payload)
	case "":
	default:
		return m, fmt.Errorf("its manifest says payload %.40q: \"direct\" or \"copy\"", t.Payload)
	}
	m.Name, m.Version = t.Name, t.Version
	var err error
	m.Options, err = parseOptions(t.Options)
	return m, err
}

func parseOptions(list []optionText) ([]manifest.Option, error) {
	if len(list) > maxOptions {
		return nil, fmt.Errorf("its manifest lists %d options: at most %d", len(list), maxOptions)
	}
	seen := make(map[string]bool, len(list))
	options := make([]manifest.Option, 0, len(list))
	for _, o := range list {
		if err := checkName("option", o.Name); err != nil {
			return nil, err
		}
		if seen[o.Name] {
			return nil, fmt.Errorf("its manifest lists option %q twice", o.Name)
		}
		seen[o.Name] = true
		t, ok := manifest.TypeNamed(o.Type)
		if !ok {
			return nil, fmt.Errorf("its manifest gives option %q the type %.40q: string, size, bool, int or path", o.Name, o.Type)
		}
		if len(o.Help) > maxTextLength || !printable(o.Help) {
			return nil, fmt.Errorf("its manifest has a help text of option %q that is longer than %d bytes or not printable", o.Name, maxTextLength)
		}
		options = append(options, manifest.Option{Name: o.Name, Type: t, Required: o.Required, Secret: o.Secret, Help: o.Help})
	}
	return options, nil
}

// checkName checks a name: letters, digits, '.', '_', '-'; 64 at most.
func checkName(what, name string) error {
	ok := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r)
	}
	bad := strings.IndexFunc(name, func(r rune) bool { return !ok(r) }) >= 0
	if name == "" || len(name) > maxNameLength || bad {
		return fmt.Errorf("its manifest says %s %.80q: 1 to %d letters, digits, '.', '_' and '-'", what, name, maxNameLength)
	}
	return nil
}

// printable keeps control characters away from the operator's terminal.
func printable(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < 0x20 || r >= 0x7f && r < 0xa0 }) < 0
}

// checkABI compares the version that a plugin was built for with the engine's.
func checkABI(version uint32) error {
	if version>>16 == abi.Major {
		return nil
	}
	return fmt.Errorf("speaks version %s of the plugin interface and this engine speaks %d.%d: build it with the SDK of this engine's release", abiText(version), abi.Major, abi.Minor)
}

func abiText(version uint32) string { return fmt.Sprintf("%d.%d", version>>16, version&0xffff) }
