#!/usr/bin/env bash
#
# Walks through meterd's HTTP interface with curl: events in, queries, aggregations, refusals.
#
#     API_KEY=... examples/curl-examples.sh
#
# BASE_URL is where meterd listens (http://127.0.0.1:8080). Answers are laid out by jq where it is
# installed, and shown as they came where it is not. Each answer must have the status that is
# expected of it: the first that has not ends the script with 1.

set -euo pipefail

BASE_URL="${BASE_URL:-http://127.0.0.1:8080}"
BASE_URL="${BASE_URL%/}"
API_KEY="${API_KEY:-}"
if [[ -z "$API_KEY" ]]; then
    echo "❌ API_KEY is not set. meterd prints a key at its first start:" >&2
    echo "   API_KEY=... $0" >&2
    exit 1
fi

CUSTOMER_1="cust_acme"
CUSTOMER_2="cust_globex"

blue="" yellow="" green="" plain=""
if [[ -t 1 ]]; then
    blue=$'\e[34m' yellow=$'\e[33m' green=$'\e[32m' plain=$'\e[0m'
fi

answer="$(mktemp)"
trap 'rm -f "$answer"' EXIT

# heading TEXT
heading() { printf '\n%s%s%s\n\n' "$blue" "$1" "$plain"; }

# note TEXT
note() { printf '%s%s%s\n' "$yellow" "$1" "$plain"; }

# call STATUS METHOD PATH [CURL OPTION]...: leaves the answer's body in the file $answer.
# -q, which must come first, leaves ~/.curlrc unread: with "fail" in it no refusal would be shown.
call() {
    local expected="$1" method="$2" path="$3" status
    shift 3
    if ! status="$(curl -q -sS --max-time 30 -o "$answer" -w '%{http_code}' \
        -X "$method" "$BASE_URL$path" -H "x-apikey: $API_KEY" "$@")"; then
        echo "❌ $method $path: no answer from $BASE_URL" >&2
        exit 1
    fi
    if [[ "$status" != "$expected" ]]; then
        echo "❌ $method $path: HTTP $status where $expected was expected" >&2
        cat "$answer" >&2
        echo >&2
        exit 1
    fi
}

# show [JQ FILTER]: the last answer.
show() {
    if command -v jq >/dev/null; then
        jq "${1:-.}" "$answer"
    else
        cat "$answer"
        echo
    fi
}

# usage EVENT_TYPE JSON: one event, one dot.
usage() {
    call 201 POST "/usage/$1" -H "Content-Type: application/json" -d "$2"
    printf '.'
}

# refused STATUS METHOD PATH [CURL OPTION]...: a call that meterd must not accept.
refused() {
    call "$@"
    printf '%s %s → %s\n' "$2" "$3" "$1"
    show
}

echo "🚀 meterd - cURL Examples"
echo "=========================================="

heading "1. Health"
call 200 GET /
show
call 200 GET /ping
show

heading "2. Configuration"
note "It is read from systemconfig.toml; secrets are masked in the answer."
call 200 GET /config
show
errors_configured=no
if grep -q '"errors.count"' "$answer"; then errors_configured=yes; fi

heading "3. Sending events"

note "20 API calls of $CUSTOMER_1"
for _ in {1..20}; do
    usage api.calls '{
        "customerId": "'"$CUSTOMER_1"'",
        "value": 1,
        "metadata": {"endpoint": "/api/users", "method": "GET"}
    }'
done
echo

note "15 API calls of $CUSTOMER_2"
for _ in {1..15}; do
    usage api.calls '{"customerId": "'"$CUSTOMER_2"'", "value": 1}'
done
echo

note "Storage of $CUSTOMER_1, in bytes"
for bytes in 1048576 2097152 5242880 3145728 4194304; do
    usage storage.bytes '{"customerId": "'"$CUSTOMER_1"'", "value": '"$bytes"'}'
done
echo

note "Response times of $CUSTOMER_1, in milliseconds"
for milliseconds in 120 145 98 234 167 189 203 156 178 145; do
    usage response.time.ms '{"customerId": "'"$CUSTOMER_1"'", "value": '"$milliseconds"'}'
done
echo

if [[ "$errors_configured" == yes ]]; then
    note "5 errors of $CUSTOMER_1"
    for _ in {1..5}; do
        usage errors.count '{
            "customerId": "'"$CUSTOMER_1"'",
            "value": 1,
            "metadata": {"statusCode": 500, "endpoint": "/api/orders"}
        }'
    done
    echo
fi

note "A batch of 3: stored whole or not at all"
call 201 POST /usagebatch -H "Content-Type: application/json" -d '[
    {"eventType": "api.calls", "customerId": "'"$CUSTOMER_1"'", "value": 1},
    {"eventType": "api.calls", "customerId": "'"$CUSTOMER_2"'", "value": 1},
    {"eventType": "storage.bytes", "customerId": "'"$CUSTOMER_2"'", "value": 7340032}
]'
show

note "A batch with an invalid event, sent with Prefer: handling=lenient: the valid one is stored"
call 207 POST /usagebatch -H "Content-Type: application/json" -H "Prefer: handling=lenient" -d '[
    {"eventType": "api.calls", "customerId": "'"$CUSTOMER_2"'", "value": 1},
    {"eventType": "api.calls", "customerId": "'"$CUSTOMER_2"'"}
]'
show

heading "4. The latest events"
call 200 GET "/events?limit=10"
show '.[] | {customerId, eventType, value, receivedAt}'

heading "5. The latest events of $CUSTOMER_1"
call 200 GET "/events?customerId=$CUSTOMER_1&limit=5"
show

heading "6. Triggering aggregation"
note "Open periods get a snapshot; periods that have ended are closed, and their webhooks sent."
call 202 POST /aggregations/trigger
show

heading "7. Aggregations"
for customer in "$CUSTOMER_1" "$CUSTOMER_2"; do
    note "$customer"
    call 200 GET "/aggregations?customerId=$customer"
    show '.[] | {period, periodStart, eventCount, events}'
    if [[ "$(cat "$answer")" == "[]" ]]; then
        echo "❌ $customer has no aggregation after the trigger" >&2
        exit 1
    fi
done

heading "8. Aggregations of one period"
call 200 GET "/aggregations?period=daily&limit=5"
show

heading "9. What meterd refuses"

note "A wrong API key"
API_KEY="not-$API_KEY" refused 401 GET /config

note "An event type that is not configured"
refused 400 POST /usage/no.such.type -d '{"customerId": "'"$CUSTOMER_1"'", "value": 1}'

note "A body that is not JSON"
refused 400 POST /usage/api.calls -d '{"customerId": '

note "An event without a customer, whose value is text"
refused 422 POST /usage/api.calls -d '{"value": "1"}'

note "A batch with one invalid event: none of it is stored"
refused 422 POST /usagebatch -d '[
    {"eventType": "api.calls", "customerId": "'"$CUSTOMER_1"'", "value": 1},
    {"eventType": "api.calls", "customerId": "'"$CUSTOMER_1"'"}
]'

note "An empty batch"
refused 400 POST /usagebatch -d '[]'

note "A batch of 1001"
refused 413 POST /usagebatch -d "[$(printf '{},%.0s' {1..1000}){}]"

note "A limit that is no number"
refused 400 GET "/events?limit=many"

note "A path that does not exist"
refused 404 GET /no/such/path

note "A method that the path does not know"
refused 405 DELETE /events

printf '\n%s==========================================\n' "$green"
printf '✅ All steps succeeded\n'
printf '==========================================%s\n\n' "$plain"
cat <<SUMMARY
Next steps:
  # the events of one customer
  curl '$BASE_URL/events?customerId=$CUSTOMER_1' -H "x-apikey: \$API_KEY"

  # its aggregations
  curl '$BASE_URL/aggregations?customerId=$CUSTOMER_1' -H "x-apikey: \$API_KEY"

  # webhooks: start the receiver, name it in systemconfig.toml (see examples/README.md)
  WEBHOOK_SECRET=whsec_test_secret python examples/webhook_receiver.py
SUMMARY
