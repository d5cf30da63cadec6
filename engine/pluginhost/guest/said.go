package guest

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"blockengine/sdk/manifest"
)

// Limits on what a plugin may say of itself.
const (
	maxOptions    = 64
	maxNameLength = 64
	maxTextLength = 1024
)

// Said is what a plugin from a file says of itself, in whatever form it came. Keys
// that are not known are a later minor version's and pass.
type Said struct {
	Kind    string       `json:"kind"`
	Name    string       `json:"name"`
	Version string       `json:"version"`
	Payload string       `json:"payload"`
	Options []SaidOption `json:"options"`
}

// SaidOption is one option of it.
type SaidOption struct {
	Name     string `json:"name"`
	Type     string `json:"type"`
	Required bool   `json:"required"`
	Secret   bool   `json:"secret"`
	Help     string `json:"help"`
}

// Manifest checks all but Kind, which the runtime knows about, and the version of
// the interface, which is abi.
func (s *Said) Manifest(abi uint32) (manifest.Manifest, error) {
	m := manifest.Manifest{Name: s.Name, Version: s.Version, ABI: abi, Payload: manifest.Direct}
	if err := checkName("name", s.Name); err != nil {
		return m, err
	}
	if len(s.Version) > maxNameLength || !printable(s.Version) {
		return m, fmt.Errorf("its manifest says version %.80q: at most %d printable characters", s.Version, maxNameLength)
	}
	switch p := manifest.Payload(s.Payload); p {
	case manifest.Direct, manifest.Copy:
		m.Payload = p
	case "":
	default:
		return m, fmt.Errorf("its manifest says payload %.40q: \"direct\" or \"copy\"", s.Payload)
	}
	var err error
	m.Options, err = checkOptions(s.Options)
	return m, err
}

func checkOptions(list []SaidOption) ([]manifest.Option, error) {
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
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
	bad := strings.ContainsFunc(name, func(r rune) bool { return !strings.ContainsRune(allowed, r) })
	if name == "" || len(name) > maxNameLength || bad {
		return fmt.Errorf("its manifest says %s %.80q: 1 to %d letters, digits, '.', '_' and '-'", what, name, maxNameLength)
	}
	return nil
}

// printable keeps control characters away from the operator's terminal.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r >= 0x7f && r < 0xa0 })
}
