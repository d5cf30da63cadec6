package kit

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"blockengine/examples"
	"blockengine/sdk"
)

// Kinds of skeletons.
const (
	KindProtocol = "protocol"
	KindStore    = "store"
	LangGo       = "go"
	LangC        = "c"
)

// Skeleton says what to write.
type Skeleton struct {
	Dir    string // which must not be there, or be empty
	Name   string // of the plugin; "": the directory's
	Kind   string
	Lang   string
	Engine string // the command, for the Makefile
}

//go:embed skeleton
var templates embed.FS

// goSum is what go.sum holds of the modules that a plugin in a process is built
// from, in the versions that the engine itself uses.
//
//go:embed process.sum
var goSum string

const skeletonGo = "1.26.0"

var goodName = regexp.MustCompile(`^[a-z][a-z0-9]{0,31}$`)

// Write writes the skeleton, all or nothing, and gives its name.
func (s Skeleton) Write() (string, error) {
	if s.Name == "" {
		abs, err := filepath.Abs(s.Dir)
		if err != nil {
			return "", err
		}
		s.Name = strings.ToLower(filepath.Base(abs))
	}
	if !goodName.MatchString(s.Name) {
		return "", &Misuse{fmt.Errorf("%q cannot be the name of a plugin's package: give --name with up to 32 small letters and digits, a letter first", s.Name)}
	}
	files, err := s.files()
	if err != nil {
		return "", err
	}
	return s.Name, s.place(files)
}

// files makes all files, by their path.
func (s *Skeleton) files() (map[string]string, error) {
	out := map[string]string{}
	var err error
	switch s.Kind + " " + s.Lang {
	case "protocol go":
		err = errors.Join(s.templates(out, "protocol-go"), s.example(out, "protocol-go", map[string]string{
			"plain.go": "plugin.go", "plain_test.go": "plugin_test.go", "wasm/main.go": "wasm/main.go",
			"server/server.go": "server/server.go", "server/cmd/main.go": "server/cmd/main.go", "process/main.go": "process/main.go",
		}), sources(out))
		out["go.mod"] = s.module(s.path(), "blockengine", nil)
		out["process/go.mod"] = s.module(s.path()+"/process", "../blockengine", processModules(), s.path(), "..")
		out["process/go.sum"] = goSum
	case "protocol c":
		err = errors.Join(s.templates(out, "protocol-c"), s.example(out, "protocol-c", map[string]string{"plain.c": s.Name + ".c"}),
			source(out, "c/blockengine.h", "blockengine.h"), source(out, "PLUGIN.md", "PLUGIN.md"))
	case "store go":
		err = errors.Join(s.templates(out, "store-go"), sources(out))
		out["go.mod"] = s.module(s.path(), "blockengine", processModules())
		out["go.sum"] = goSum
	case "store c":
		return nil, &Misuse{errors.New("a store plugin is a process, and the SDK for processes is in Go: write --lang go")}
	default:
		return nil, &Misuse{fmt.Errorf("there is no skeleton of kind %q in %q: --kind protocol or store, --lang go or c", s.Kind, s.Lang)}
	}
	return out, err
}

// path is that of the skeleton's module, which nobody fetches.
func (s *Skeleton) path() string { return "example.com/" + s.Name }

// templates adds the files that are written for skeletons alone.
func (s *Skeleton) templates(out map[string]string, dir string) error {
	root := "skeleton/" + dir
	return fs.WalkDir(templates, root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		text, err := fs.ReadFile(templates, path)
		name := strings.TrimSuffix(strings.TrimPrefix(path, root+"/"), ".txt")
		out[name] = strings.NewReplacer("@NAME@", s.Name, "@ENGINE@", s.Engine).Replace(string(text))
		return err
	})
}

// example adds files of an example, under the skeleton's name. What they speak
// stays as it is.
func (s *Skeleton) example(out map[string]string, dir string, names map[string]string) error {
	rename := strings.NewReplacer(
		"blockengine/examples/protocol-go/server", s.path()+"/server",
		`plain "blockengine/examples/protocol-go"`, s.Name+` "`+s.path()+`"`,
		"plain.Plugin()", s.Name+".Plugin()",
		"package plain\n", "package "+s.Name+"\n",
		"// Package plain is", "// Package "+s.Name+" is",
		`Name: "plain"`, `Name: "`+s.Name+`"`,
		`\"name\":\"plain\"`, `\"name\":\"`+s.Name+`\"`)
	for from, to := range names {
		text, err := fs.ReadFile(examples.Source, dir+"/"+from)
		if err != nil {
			return err
		}
		out[to] = rename.Replace(string(text))
	}
	return nil
}

// sources adds the SDK, as a module of its own beside the skeleton's: nobody can
// fetch it from anywhere.
func sources(out map[string]string) error {
	out["blockengine/go.mod"] = "// The SDK, as the engine that wrote it here has it.\nmodule blockengine\n\ngo " + skeletonGo + "\n"
	return fs.WalkDir(sdk.Source, ".", func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && (e.Name() == "testdata" || path == "sdktest/testplugins" || path == "sdktest/badplugins" || path == "c"):
			return fs.SkipDir
		case e.IsDir() || strings.HasSuffix(path, "_test.go") || path == "source.go":
			return nil
		}
		return source(out, path, "blockengine/sdk/"+path)
	})
}

func source(out map[string]string, from, to string) error {
	text, err := fs.ReadFile(sdk.Source, from)
	out[to] = string(text)
	return err
}

// processModules are what a plugin in a process requires, path and version.
func processModules() []string {
	var list []string
	for line := range strings.Lines(goSum) {
		f := strings.Fields(line)
		if len(f) == 3 && !strings.HasSuffix(f[1], "/go.mod") {
			list = append(list, f[0]+" "+f[1])
		}
	}
	return list
}

// module writes a go.mod. local are pairs of a module and its directory.
func (s *Skeleton) module(path, sdkDir string, required []string, local ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "module %s\n\ngo %s\n\nrequire blockengine v0.0.0\n\nreplace blockengine => %s\n", path, skeletonGo, relative(sdkDir))
	for i := 0; i+1 < len(local); i += 2 {
		fmt.Fprintf(&b, "\nrequire %s v0.0.0\n\nreplace %s => %s\n", local[i], local[i], relative(local[i+1]))
	}
	if len(required) > 0 {
		fmt.Fprintf(&b, "\n// What the SDK's package process needs, in the versions of the engine.\nrequire (\n\t%s\n)\n", strings.Join(required, "\n\t"))
	}
	return b.String()
}

// relative writes a directory as a replacement has to be written.
func relative(dir string) string {
	if strings.HasPrefix(dir, "..") {
		return dir
	}
	return "./" + dir
}

// place writes the files beside their place and moves them there.
func (s *Skeleton) place(files map[string]string) error {
	if entries, err := os.ReadDir(s.Dir); err == nil && len(entries) > 0 {
		return fmt.Errorf("%s is not empty: name a directory that is, or that is not there yet", s.Dir)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(filepath.Clean(s.Dir))
	if err := os.MkdirAll(parent, 0o777); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(parent, "."+s.Name+"-")
	if err != nil {
		return err
	}
	err = write(tmp, files)
	if err == nil {
		err = os.Chmod(tmp, 0o755)
	}
	if err == nil {
		err = os.Rename(tmp, filepath.Clean(s.Dir))
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(tmp))
	}
	return nil
}

func write(dir string, files map[string]string) error {
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			return err
		}
	}
	return nil
}
