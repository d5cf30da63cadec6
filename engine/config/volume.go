package config

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// OnLostCache is what a volume does when the durability of acknowledged writes
// has become unknown (DESIGN, chapter 2, rule 3).
type OnLostCache string

// The choices of on_lost_cache.
const (
	LostCacheError OnLostCache = "error" // the next flush fails
	LostCacheTrust OnLostCache = "trust" // the server is trusted to have kept them
)

// Volume is a [[volume]] section.
type Volume struct {
	Place
	Name        string
	Plugin      string // see Config.Plugin
	ReadOnly    bool
	Timeout     time.Duration // how long requests wait for a server that is away
	Fence       time.Duration // DESIGN, chapter 2, rule 1
	OnLostCache OnLostCache
	Connections int      // to the server; 0: as many as it allows
	Options     []Option // the plugin's own, in the order of the file
	Paths       []Path   // where the server is
	Dir         string   // absolute; where relative paths among the options start
}

// Path is a [[volume.path]] section.
type Path struct {
	Place
	Address  Address
	Priority int // of several paths the one with the lowest is preferred
}

// Defaults and limits of volumes.
const (
	DefaultTimeout = 30 * time.Second
	DefaultFence   = 60 * time.Second
	MaxTimeout     = 24 * time.Hour // of both
	MaxConnections = 16
	MaxPriority    = 255
)

func (r *reader) volume(s *section) Volume {
	s.elsewhere = "; options of the plugin belong under [volume.options]"
	v := Volume{Name: s.name("volume"), Dir: r.cfg.Dir}
	v.Place = s.Place
	v.Plugin = s.text("plugin")
	v.ReadOnly = s.boolean("read_only")
	v.Timeout = s.duration("timeout", DefaultTimeout, "30s", MaxTimeout)
	v.Fence = s.duration("fence", DefaultFence, "60s", MaxTimeout)
	v.OnLostCache = choice(s, "on_lost_cache", LostCacheError, []OnLostCache{LostCacheError, LostCacheTrust})
	v.Connections = s.integer("connections", 0, 0, MaxConnections)
	v.Options = r.options(s)
	v.Paths = r.paths(s)
	s.finish()
	return v
}

func (r *reader) paths(volume *section) []Path {
	var paths []Path
	seen := make(map[Address]int) // to line
	for i, s := range volume.tables("path", "path", "[volume.path]") {
		s.label = fmt.Sprintf("%s path[%d]", volume.label, i+1)
		s.key = volume.key + "." + s.key
		p := Path{Place: s.Place, Address: s.address("address"), Priority: s.integer("priority", 0, 0, MaxPriority)}
		s.finish()
		paths = append(paths, p)
		r.checkPath(s, p, seen)
	}
	return paths
}

func (r *reader) checkPath(s *section, p Path, seen map[Address]int) {
	if !s.has("address") {
		s.lacks("address", `say where the server is, as in address = "tcp:127.0.0.1:10809"`)
	}
	if p.Address == (Address{}) {
		return // missing, or already reported
	}
	if isPortZero(p.Address) {
		s.bad("address", quote(p.Address.String())+" has port 0, which nobody can connect to",
			"write the server's port")
	}
	if line, ok := seen[p.Address]; ok {
		s.bad("address", fmt.Sprintf("%s is already a path of this volume, on line %d", quote(p.Address.String()), line),
			"remove one of them; connections = N opens several to one server")
		return
	}
	seen[p.Address] = s.LineOf("address")
}

// options reads [volume.options], whose keys only the plugin knows.
func (r *reader) options(volume *section) []Option {
	s := volume.table("options", "[volume.options]")
	s.label, s.key = volume.label, volume.KeyOf("options")
	options := make([]Option, 0, len(s.values))
	for _, key := range s.inOrder() {
		v := s.values[key]
		if !isOptionValue(v) {
			s.bad(key, "is "+describe(v)+", which no option can be", "write a string, a number, true or false")
			continue
		}
		options = append(options, Option{Key: key, Value: v, Line: s.LineOf(key)})
	}
	return slices.Clip(options)
}

func isOptionValue(v any) bool {
	switch v := v.(type) {
	case string, int64, bool:
		return true
	case float64:
		return !math.IsNaN(v) && !math.IsInf(v, 0)
	}
	return false
}

// checkVolumes checks what volumes say about plugins.
func (r *reader) checkVolumes() {
	for i := range r.volumes {
		r.checkVolume(r.volumes[i], &r.cfg.Volumes[i])
	}
}

func (r *reader) checkVolume(s *section, v *Volume) {
	if !s.has("plugin") {
		s.lacks("plugin", "name one, as in plugin = \"memory\"; builtin are "+quoted(Builtins(), "and"))
	}
	if _, ok := s.values["plugin"].(string); !ok {
		return
	}
	kind, ok := r.pluginKind(v.Plugin)
	if !ok {
		s.bad("plugin", quote(v.Plugin)+" is not known", r.pluginFix(v.Plugin))
		return
	}
	switch {
	case kind == KindStore && len(v.Paths) > 0:
		r.problem(v.Paths[0].Line, v.KeyOf("path"),
			fmt.Sprintf("%s: plugin %s connects to no server and takes no path", v.Label(), quote(v.Plugin)),
			`remove [[volume.path]], or choose a protocol plugin such as "nbd"`)
	case kind == KindProtocol && s.isEmptyList("path"):
		s.lacks("path", fmt.Sprintf(`plugin %s needs to know where the server is, `+
			`add [[volume.path]] with address = "tcp:HOST:PORT" or "unix:PATH"`, quote(v.Plugin)))
	}
}

// pluginKind finds a plugin as Config.Plugin does, but in a file of thousands.
func (r *reader) pluginKind(name string) (Kind, bool) {
	if i, ok := r.pluginNames[name]; ok {
		return r.cfg.Plugins[i].Kind(), true
	}
	kind, ok := builtins[name]
	return kind, ok
}

// pluginFix mends the name of a plugin that there is none of.
func (r *reader) pluginFix(name string) string {
	if near := r.guess(name, append(Builtins(), namesOf(r.plugins)...)); near != "" {
		return fmt.Sprintf("write %q, or add a [[plugin]] with that name", near)
	}
	return "add a [[plugin]] with that name, or use a builtin one: " + quoted(Builtins(), "or")
}
