;; Calls itself without an end.
(func $request (param $p i32) (drop (call $deep (i64.const 0))))
(func $deep (param $a i64) (result i64)
  (local i64 i64 i64 i64 i64 i64 i64 i64)
  (i64.add (call $deep (i64.add (local.get $a) (i64.const 1))) (local.get $a)))
