;; Sets a timer and, each time it fires, works as long as it may before it sets
;; it again.
(func $opened (call $limits) (call $set))
(func $set
  (call $head (i64.const 17) (i64.const 24)) (call $put (i64.const 0)) (call $put (i64.const 1)))
(func $timer (param $id i32)
  (local $i i32)
  (call $set)
  (local.set $i (i32.const 19000000))
  (loop $l
    (local.set $i (i32.sub (local.get $i) (i32.const 1)))
    (br_if $l (local.get $i))))
