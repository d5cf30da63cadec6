// Package c tests the C header for plugins against the contract that it is made
// from.
package c

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"blockengine/sdk/abi"
)

var update = flag.Bool("update", false, "write the generated part of blockengine.h")

const (
	header = "blockengine.h"
	begin  = "/* generated from sdk/abi and sdk/block: begin */\n"
	end    = "/* generated from sdk/abi and sdk/block: end */\n"
)

// records are all structs that cross the interface; TestRecordsAreAll holds the
// list against the source.
var records = []any{
	abi.Header{}, abi.Buffers{}, abi.Opened{}, abi.Request{}, abi.Received{}, abi.Timer{}, abi.Abort{}, abi.Closed{},
	abi.Message{}, abi.SessionData{}, abi.Digest{}, abi.Payload{}, abi.Bytes{}, abi.Range{}, abi.Count{}, abi.Want{},
	abi.Complete{}, abi.Extent{}, abi.Limits{}, abi.SetTimer{}, abi.Fail{}, abi.DigestMark{}, abi.Hash{}, abi.PathState{},
}

// TestHeader compares the header's records and constants with sdk/abi and
// sdk/block.
func TestHeader(t *testing.T) {
	text := read(t, header)
	head, rest, ok := strings.Cut(text, begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s lacks the lines %q and %q", header, begin, end)
	}
	want := head + begin + generate(t) + end + tail
	if *update {
		if err := os.WriteFile(header, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if text != want {
		t.Errorf("%s is not what sdk/abi and sdk/block say: go test ./sdk/c -update", header)
	}
}

// TestHeaderCompiles has clang check the header's assertions about sizes and
// offsets, as a plugin's author would have it.
func TestHeaderCompiles(t *testing.T) {
	clang, err := exec.LookPath("clang")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("clang is missing: apt-get install clang lld")
		}
		t.Skip("clang is missing: apt-get install clang lld")
	}
	for _, mode := range []string{"", "#define BE_IMPLEMENTATION\n"} {
		src := filepath.Join(t.TempDir(), "a.c")
		if err := os.WriteFile(src, []byte(mode+"#include \"blockengine.h\"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(clang, "--target=wasm32", "-std=c11", "-pedantic", "-O2", "-ffreestanding", "-nostdlib", "-Wall", "-Wextra",
			"-Werror", "-I.", "-c", "-o", os.DevNull, src).CombinedOutput()
		if err != nil {
			t.Errorf("%q: %v\n%s", mode, err, out)
		}
	}
}

func TestRecordsAreAll(t *testing.T) {
	var listed, found []string
	for _, r := range records {
		listed = append(listed, reflect.TypeOf(r).Name())
	}
	for _, f := range files(t, "../abi") {
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.TypeSpec); ok {
				if _, ok := s.Type.(*ast.StructType); ok && s.Name.IsExported() {
					found = append(found, s.Name.Name)
				}
			}
			return true
		})
	}
	slices.Sort(listed)
	slices.Sort(found)
	if !slices.Equal(listed, found) {
		t.Errorf("the records are\n%v, and the test knows\n%v", found, listed)
	}
}

// generate writes the part that is made from the Go source.
func generate(t *testing.T) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n#define BE_ABI_VERSION %du /* %d.%d */\n", abi.Version, abi.Major, abi.Minor)
	for _, dir := range []string{"../abi", "../block"} {
		for _, f := range files(t, dir) {
			b.WriteString(constants(f))
		}
	}
	for _, r := range records {
		b.WriteString(record(reflect.TypeOf(r)))
	}
	return b.String() + "\n"
}

// leftOut are constants that a header has no use for.
var leftOut = map[string]bool{"Major": true, "Minor": true, "Version": true, "MaxOp": true}

// constants writes a file's exported numeric constants, a paragraph for each
// declaration.
func constants(f *ast.File) string {
	var b strings.Builder
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		paragraph := ""
		for _, s := range g.Specs {
			v := s.(*ast.ValueSpec)
			for i, name := range v.Names {
				if !name.IsExported() || leftOut[name.Name] || i >= len(v.Values) {
					continue
				}
				if value, ok := number(v.Values[i]); ok {
					paragraph += fmt.Sprintf("#define BE_%s %s%s\n", snake(name.Name, true), value, comment(v))
				}
			}
		}
		if paragraph != "" {
			b.WriteString("\n" + paragraph)
		}
	}
	return b.String()
}

func comment(v *ast.ValueSpec) string {
	if v.Comment == nil {
		return ""
	}
	return " /* " + strings.TrimSpace(v.Comment.Text()) + " */"
}

// number evaluates the expressions that the source uses: a number, shifts.
func number(e ast.Expr) (string, bool) {
	v, ok := eval(e)
	return strconv.FormatUint(v, 10) + "u", ok
}

func eval(e ast.Expr) (uint64, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		if f, err := strconv.ParseFloat(e.Value, 64); err == nil && e.Kind != token.STRING {
			return uint64(f), true
		}
	case *ast.BinaryExpr:
		x, ok := eval(e.X)
		y, ok2 := eval(e.Y)
		return x << y, ok && ok2 && e.Op == token.SHL
	}
	return 0, false
}

// record writes a struct and the assertions of its layout.
func record(t reflect.Type) string {
	var fields, asserts strings.Builder
	name := "struct be_" + snake(t.Name(), false)
	for i := range t.NumField() {
		f := t.Field(i)
		field := snake(f.Name, false)
		switch {
		case f.Anonymous:
			field = "h"
		case f.Name == "_":
			field = fmt.Sprintf("reserved%d", f.Offset)
		}
		fmt.Fprintf(&fields, "\t%s;\n", declare(f.Type, field))
		if f.Name != "_" {
			fmt.Fprintf(&asserts, "_Static_assert(offsetof(%s, %s) == %d, \"%s.%s\");\n", name, field, f.Offset, t.Name(), f.Name)
		}
	}
	return fmt.Sprintf("\n%s {\n%s};\n_Static_assert(sizeof(%s) == %d, \"%s\");\n%s", name, fields.String(), name, t.Size(), t.Name(), asserts.String())
}

func declare(t reflect.Type, field string) string {
	switch t.Kind() {
	case reflect.Struct:
		return "struct be_" + snake(t.Name(), false) + " " + field
	case reflect.Array:
		return fmt.Sprintf("%s[%d]", declare(t.Elem(), field), t.Len())
	}
	return fmt.Sprintf("uint%d_t %s", t.Size()*8, field)
}

var (
	lowerUpper = regexp.MustCompile(`([a-z])([A-Z])`)
	upperWord  = regexp.MustCompile(`([A-Z])([A-Z][a-z])`)
)

// snake writes a name of Go as C has it: HostID as host_id, CapFUA as CAP_FUA.
func snake(name string, upper bool) string {
	name = upperWord.ReplaceAllString(lowerUpper.ReplaceAllString(name, "${1}_$2"), "${1}_$2")
	if upper {
		return strings.ToUpper(name)
	}
	return strings.ToLower(name)
}

// files parses a package's source, in the order of its names.
func files(t *testing.T, dir string) []*ast.File {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(paths) == 0 {
		t.Fatal(err, paths)
	}
	var all []*ast.File
	for _, p := range paths {
		if strings.HasSuffix(p, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, f)
	}
	return all
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
