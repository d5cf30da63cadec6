package config

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// Runtime is how a plugin is executed.
type Runtime string

// The runtimes of this version.
const (
	RuntimeBuiltin Runtime = "builtin"
	RuntimeWasm    Runtime = "wasm"
)

const runtimeProcess Runtime = "process" // known, and refused

// Kind is which contract a plugin fulfils (DESIGN, chapter 3).
type Kind int

// A plugin that is not builtin tells its kind in its manifest only.
const (
	KindUnknown  Kind = iota
	KindStore         // does its own I/O; takes no paths
	KindProtocol      // the engine connects it; needs a path
)

// Builtins are the plugins that need no [[plugin]] section.
var builtins = map[string]Kind{
	"file":   KindStore,
	"memory": KindStore,
	"nbd":    KindProtocol,
	"null":   KindStore,
}

// Plugin is a [[plugin]] section, or a builtin plugin without one.
type Plugin struct {
	Place          // Line is 0 for a builtin without a section
	Name    string // what volumes refer to
	Runtime Runtime
	Path    string // wasm: absolute path of the module
	SHA256  string // wasm: the module's hash in lower-case hex, or "": any
	Memory  uint64 // wasm: the most linear memory, in bytes, whole pages
}

// Defaults and limits of a WebAssembly plugin's memory.
const (
	DefaultPluginMemory = 32 * MiB
	MinPluginMemory     = 1 * MiB
	MaxPluginMemory     = 4*GiB - wasmPage // 65535 pages: one less than 32 bits can count
	wasmPage            = 64 * KiB
)

// Kind is the plugin's kind as far as the configuration can know it.
func (p Plugin) Kind() Kind {
	if p.Runtime != RuntimeBuiltin {
		return KindUnknown
	}
	return builtins[p.Name]
}

// Plugin finds the plugin that volumes call by name: a section of the file, or
// else the builtin plugin of that name.
func (c *Config) Plugin(name string) (Plugin, bool) {
	for _, p := range c.Plugins {
		if p.Name == name {
			return p, true
		}
	}
	if _, ok := builtins[name]; ok {
		label := "builtin plugin " + quote(name)
		return Plugin{Place: Place{key: "plugin", label: label}, Name: name, Runtime: RuntimeBuiltin}, true
	}
	return Plugin{}, false
}

// Builtins are the names of the builtin plugins, sorted.
func Builtins() []string {
	names := make([]string, 0, len(builtins))
	for name := range builtins {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (r *reader) plugin(s *section) Plugin {
	p := Plugin{Name: s.name("plugin")}
	p.Place = s.Place
	p.Runtime = choice(s, "runtime", "", []Runtime{RuntimeWasm, RuntimeBuiltin}, runtimeProcess)
	p.Path = s.path("path")
	p.SHA256 = parsed(s, "sha256", "", "a hash", "write 64 hex digits in quotes", parseSHA256)
	memory := s.size("memory", DefaultPluginMemory, MinPluginMemory, MaxPluginMemory)
	p.Memory = (memory + wasmPage - 1) / wasmPage * wasmPage
	s.finish()
	r.checkRuntime(s, p)
	if p.Runtime != RuntimeWasm {
		p.Memory = 0
	}
	return p
}

// checkRuntime checks that a plugin has what its runtime needs and no more.
func (r *reader) checkRuntime(s *section, p Plugin) {
	switch p.Runtime {
	case RuntimeWasm:
		if !s.has("path") {
			s.lacks("path", `runtime "wasm" needs the module's file, as in path = "plugins/nbd.wasm"`)
		}
	case RuntimeBuiltin:
		checkBuiltin(s, p)
	case runtimeProcess:
		s.bad("runtime", `"process" is not in this version`, `write "wasm" or "builtin"`)
	default:
		if !s.has("runtime") {
			s.lacks("runtime", `write "wasm" or "builtin"`)
		}
	}
}

func checkBuiltin(s *section, p Plugin) {
	for _, key := range []string{"path", "sha256", "memory"} {
		if s.has(key) {
			s.bad(key, "is not for a builtin plugin", `remove it, or write runtime = "wasm"`)
		}
	}
	if _, ok := builtins[p.Name]; !ok && p.Name != "" {
		s.bad("name", quote(p.Name)+" is no builtin plugin",
			"those are "+quoted(Builtins(), "and")+`; for one from a file write runtime = "wasm"`)
	}
}

func parseSHA256(s string) (string, error) {
	if b, err := hex.DecodeString(s); err != nil || len(b) != 32 {
		return "", &ValueError{quote(s) + " is no SHA-256 hash", "write 64 hex digits, as sha256sum prints them"}
	}
	return strings.ToLower(s), nil
}

// maxName is the most bytes a plugin's or volume's name has. Such names become
// parts of file names, metrics and commands.
const maxName = 64

// name reads the section's name and calls the section by it from then on.
func (s *section) name(kind string) string {
	name := s.text("name")
	if name != "" {
		s.call(kind, name)
	}
	switch {
	case !s.has("name"):
		s.lacks("name", fmt.Sprintf(`add one, as in name = "%s1"`, kind))
	case !isName(name):
		if _, ok := s.values["name"].(string); ok {
			s.bad("name", quote(name)+" is not allowed", nameFix)
		}
	}
	return name
}

const nameFix = "use 1 to 64 letters, digits, dots, dashes and underscores"

// call names the section in messages.
func (s *section) call(kind, name string) {
	s.label = kind + " " + quote(name)
	s.key += " " + quote(name)
}

// isName refuses what would be hard to type, and what a path takes for itself.
func isName(s string) bool {
	if s == "" || len(s) > maxName || s == "." || s == ".." {
		return false
	}
	for i := range len(s) {
		if !isBareKey(s[i]) && s[i] != '.' {
			return false
		}
	}
	return true
}
