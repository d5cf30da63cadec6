package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Edge says that the package From imports To. Packages of the project are
// written "./engine/volume", all others by their import path.
type Edge struct {
	From, To string
	Test     bool // only a _test.go file does
}

func (e Edge) String() string {
	if e.Test {
		return e.From + " (test) imports " + e.To
	}
	return e.From + " imports " + e.To
}

// listed is what is read of a package that "go list -json" prints.
type listed struct {
	Dir, ImportPath                    string
	Imports, TestImports, XTestImports []string
	IgnoredGoFiles                     []string // left out by build constraints
	Module                             *struct{ Path string }
}

// platforms are those whose packages are looked at: the one at hand, and that
// of plugins' main packages, which exist nowhere else.
var platforms = [][]string{nil, {"GOOS=wasip1", "GOARCH=wasm"}}

// Load gives all imports of the packages below dir, which lies in the module,
// sorted. Files that are left out on the platforms looked at count too.
func Load(dir string) ([]Edge, error) {
	edges := map[Edge]bool{}
	for _, env := range platforms {
		packages, err := list(dir, env)
		if err != nil {
			return nil, err
		}
		for _, p := range packages {
			if err := p.edges(edges); err != nil {
				return nil, err
			}
		}
	}
	return slices.SortedFunc(maps.Keys(edges), func(a, b Edge) int {
		return strings.Compare(a.String(), b.String())
	}), nil
}

func list(dir string, env []string) ([]listed, error) {
	cmd := exec.Command("go", "list", "-json=Dir,ImportPath,Imports,TestImports,XTestImports,IgnoredGoFiles,Module", "./...")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("archtest: %v in %s: %v\n%s", cmd.Args, dir, err, stderr.Bytes())
	}
	return decode(bytes.NewReader(out))
}

// decode reads the JSON objects that go list prints one after the other.
func decode(r io.Reader) ([]listed, error) {
	var packages []listed
	for d := json.NewDecoder(r); ; {
		var p listed
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return packages, nil
		}
		if err != nil {
			return nil, fmt.Errorf("archtest: output of go list: %w", err)
		}
		if p.Module == nil {
			return nil, fmt.Errorf("archtest: package %s is in no module", p.ImportPath)
		}
		packages = append(packages, p)
	}
}

// edges adds the package's imports to a set.
func (p *listed) edges(set map[Edge]bool) error {
	p.add(set, p.Imports, false)
	p.add(set, p.TestImports, true)
	p.add(set, p.XTestImports, true)
	for _, name := range p.IgnoredGoFiles {
		imports, err := importsOf(filepath.Join(p.Dir, name))
		if err != nil {
			return err
		}
		p.add(set, imports, strings.HasSuffix(name, "_test.go"))
	}
	return nil
}

func (p *listed) add(set map[Edge]bool, imports []string, test bool) {
	from := shorten(p.Module.Path, p.ImportPath)
	for _, path := range imports {
		set[Edge{from, shorten(p.Module.Path, path), test}] = true
	}
}

// shorten writes a package of the module as "./folder", the module's own as ".".
func shorten(module, path string) string {
	if path == module {
		return "."
	}
	if rest, ok := strings.CutPrefix(path, module+"/"); ok {
		return "./" + rest
	}
	return path
}

func importsOf(file string) ([]string, error) {
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		return nil, fmt.Errorf("archtest: %w", err)
	}
	var imports []string
	for _, spec := range f.Imports {
		path, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, fmt.Errorf("archtest: %s: import %s: %w", file, spec.Path.Value, err)
		}
		imports = append(imports, path)
	}
	return imports, nil
}
