package abi

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"unsafe"
)

const manual = "../PLUGIN.md"

// The manual's tables are what authors in other languages build on: each
// record stands there as it is, and each constant with its value.
func TestManualRecords(t *testing.T) {
	text := read(t, manual)
	for _, r := range records {
		line := describe(reflect.TypeOf(r))
		name, rest, _ := strings.Cut(line, " ")
		size, fields, _ := strings.Cut(rest, ": ")
		row := fmt.Sprintf("| %s | %s | %s |", name, size, fields)
		if !strings.Contains(text, row) {
			t.Errorf("%s lacks the row\n%s", manual, row)
		}
	}
}

// unlisted constants are told in the manual's sentences.
var unlisted = map[string]bool{
	"Major": true, "Minor": true, "Version": true, "ExportABI": true, "ExportManifest": true,
	"ExportBuffers": true, "ExportCall": true, "ExportInit": true,
}

func TestManualConstants(t *testing.T) {
	text := read(t, manual)
	values := constants(t, ".")
	rows := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^\| (\d+) \| ((?:Ev|Act)\w+) \| \w+ \|$`).FindAllStringSubmatch(text, -1) {
		rows[m[2]] = m[1]
	}
	for _, m := range regexp.MustCompile(`(?m)^\| ([A-Z]\w+) \| (\d+) \|`).FindAllStringSubmatch(text, -1) {
		rows[m[1]] = m[2]
	}
	for name, value := range values {
		if !unlisted[name] && rows[name] != value {
			t.Errorf("%s is %s; %s says %q", name, value, manual, rows[name])
		}
	}
	for name, value := range constants(t, "../block") {
		listed := strings.HasPrefix(name, "Cap") || name == "FUA" || name == "NoHole" || name == "FastZero" || name == "OneExtent"
		if listed && rows[name] != value {
			t.Errorf("block.%s is %s; %s says %q", name, value, manual, rows[name])
		}
	}
	if len(values) < 80 {
		t.Errorf("only %d constants were found", len(values))
	}
}

// What a call may spend is the engine's to say.
func TestManualBudgets(t *testing.T) {
	text := read(t, manual)
	values := constants(t, "../../engine/pluginhost/guest")
	for _, name := range []string{"BudgetCall", "PerByte", "BudgetLogin", "BudgetIdle", "BudgetInit"} {
		if row := fmt.Sprintf("| %s | %s |", name, values[name]); !strings.Contains(text, row) {
			t.Errorf("%s is %q; %s lacks the row that begins with %s", name, values[name], manual, row)
		}
	}
}

// A largest state fits into an Opened record, with the largest session data
// and options of a good size.
func TestOpenedHasRoom(t *testing.T) {
	const options = 15 << 10
	if n := int(unsafe.Sizeof(Opened{})) + options + MaxSession + MaxState; n > InSize {
		t.Errorf("an Opened record may be %d bytes long, and the buffer is %d", n, InSize)
	}
}

// The kinds' rows name the right record.
func TestManualKinds(t *testing.T) {
	text := read(t, manual)
	src := read(t, "events.go") + read(t, "actions.go")
	found := 0
	for _, m := range regexp.MustCompile(`(?m)^\s+((?:Ev|Act)\w+)\s+= (\d+)\s+// (\w+)`).FindAllStringSubmatch(src, -1) {
		found++
		if row := fmt.Sprintf("| %s | %s | %s |", m[2], m[1], m[3]); !strings.Contains(text, row) {
			t.Errorf("%s lacks the row\n%s", manual, row)
		}
	}
	if found != 13+26 {
		t.Errorf("%d kinds were found in the source, want 39", found)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// constants gives the exported numeric constants of a package's source.
func constants(t *testing.T, dir string) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, p := range paths {
		if strings.HasSuffix(p, "_test.go") || strings.HasSuffix(p, "endian_check.go") {
			continue
		}
		f, err := parser.ParseFile(fset, p, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	info := types.Info{Defs: map[*ast.Ident]types.Object{}}
	// Imports are not resolved: constants do not need them.
	conf := types.Config{Error: func(error) {}, FakeImportC: true}
	_, _ = conf.Check(dir, fset, files, &info)
	values := map[string]string{}
	for id, obj := range info.Defs {
		c, ok := obj.(*types.Const)
		if !ok || !ast.IsExported(id.Name) || c.Parent() == nil || c.Parent().Parent() != types.Universe {
			continue
		}
		if v := constant.ToInt(c.Val()); v.Kind() == constant.Int {
			values[id.Name] = v.ExactString()
		} else {
			values[id.Name] = c.Val().String()
		}
	}
	return values
}
