;; Logs a thousand lines at each request, and does what it should.
(func $request (param $p i32)
  (local $i i32)
  (local.set $i (i32.const 1000))
  (loop $l
    (call $head (i64.const 0x3001a) (i64.const 24)) (call $put (i64.const 5)) (call $put (i64.const 0x6f6c6c6548))
    (local.set $i (i32.sub (local.get $i) (i32.const 1)))
    (br_if $l (local.get $i)))
  (call $answer (local.get $p)))
