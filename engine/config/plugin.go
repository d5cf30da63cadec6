package config

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Runtime is how a plugin is executed.
type Runtime string

// The runtimes of this version.
const (
	RuntimeBuiltin Runtime = "builtin"
	RuntimeWasm    Runtime = "wasm"
)

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
	Place         // Line is 0 for a builtin without a section
	Name   string // what volumes refer to
	Source        // what is to be loaded
	// Memory is the most that it may have, in bytes: of a wasm plugin, linear
	// memory in whole pages; of a process, all.
	Memory uint64
	// Process is of runtime "process".
	Process
	// Watch is how long a new version is watched after an upgrade; 0: not at
	// all. Plugins that cannot be upgraded in use have 0.
	Watch time.Duration
	// Own is what the file itself names. It differs from Source where a drop-in
	// stands in for it.
	Own Source
	// DropIn is the path of the drop-in that Source is from, or "".
	DropIn string

	dropPlace Place // where it stands in the drop-in
}

// Source says which code a plugin is. Two that are equal load the same file.
type Source struct {
	Runtime Runtime
	Path    string // absolute path of the module or program
	SHA256  string // its hash in lower-case hex, or "": any; not of a builtin
}

// Defaults and limits of a WebAssembly plugin's memory.
const (
	DefaultPluginMemory = 32 * MiB
	MinPluginMemory     = 1 * MiB
	MaxPluginMemory     = 4*GiB - wasmPage // 65535 pages: one less than 32 bits can count
	wasmPage            = 64 * KiB
)

// Default and limit of the watch after an upgrade.
const (
	DefaultWatch = 10 * time.Second
	MaxWatch     = time.Hour
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
		return builtin(name), true
	}
	return Plugin{}, false
}

// builtin is a builtin plugin that the file says nothing of.
func builtin(name string) Plugin {
	p := Plugin{Place: Place{key: "plugin", label: "builtin plugin " + quote(name)}, Name: name,
		Source: Source{Runtime: RuntimeBuiltin}}
	p.Own = p.Source
	if p.Kind() != KindStore {
		p.Watch = DefaultWatch
	}
	return p
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
	p.Runtime = choice(s, "runtime", "", []Runtime{RuntimeWasm, RuntimeProcess, RuntimeBuiltin})
	p.Path = s.path("path")
	p.SHA256 = parsed(s, "sha256", "", "a hash", "write 64 hex digits in quotes", parseSHA256)
	p.Memory = s.memory(p.Runtime)
	p.Process = s.process(p.Runtime)
	p.Watch = s.duration("watch", DefaultWatch, "10s", MaxWatch)
	s.finish()
	r.checkRuntime(s, p)
	if p.Kind() == KindStore {
		p.Watch = 0
	}
	p.Own = p.Source
	return p
}

// memory reads how much memory a plugin may have.
func (s *section) memory(runtime Runtime) uint64 {
	switch runtime {
	case RuntimeWasm:
		n := s.size("memory", DefaultPluginMemory, MinPluginMemory, MaxPluginMemory)
		return (n + wasmPage - 1) / wasmPage * wasmPage
	case RuntimeProcess:
		return s.size("memory", DefaultProcessMemory, MinProcessMemory, MaxProcessMemory)
	case RuntimeBuiltin:
		s.get("memory") // it is known, and refused elsewhere
		return 0
	}
	return s.size("memory", 0, MinPluginMemory, MaxProcessMemory)
}

// checkRuntime checks that a plugin has what its runtime needs and no more.
func (r *reader) checkRuntime(s *section, p Plugin) {
	switch p.Runtime {
	case RuntimeWasm:
		if !s.has("path") {
			s.lacks("path", `runtime "wasm" needs the module's file, as in path = "plugins/nbd.wasm"`)
		}
	case RuntimeProcess:
		if !s.has("path") {
			s.lacks("path", `runtime "process" needs the program's file, as in path = "plugins/mystore"`)
		}
	case RuntimeBuiltin:
		checkBuiltin(s, p)
	default:
		if !s.has("runtime") {
			s.lacks("runtime", `write "wasm", "process" or "builtin"`)
		}
	}
}

func checkBuiltin(s *section, p Plugin) {
	for _, key := range []string{"path", "sha256", "memory"} {
		if s.has(key) {
			s.bad(key, "is not for a builtin plugin", `remove it, or write runtime = "wasm" or "process"`)
		}
	}
	if p.Kind() == KindStore && s.has("watch") {
		s.bad("watch", "is not for a store plugin, which cannot be upgraded while it is in use", "remove it")
	}
	if _, ok := builtins[p.Name]; !ok && p.Name != "" {
		s.bad("name", quote(p.Name)+" is no builtin plugin",
			"those are "+quoted(Builtins(), "and")+`; for one from a file write runtime = "wasm" or "process"`)
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
