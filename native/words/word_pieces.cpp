#include "words/word_pieces.h"

#include <algorithm>
#include <array>
#include <mutex>
#include <set>
#include <utility>

namespace quaver {
namespace {

enum class Kind : std::uint8_t { letter, space, sign, control };

// Runs of letters and digits are words, and so is every other character by itself.
constexpr std::array<Kind, 128> kinds() {
  std::array<Kind, 128> kind{};
  for (unsigned c = 0; c < kind.size(); ++c) {
    const bool letter = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
    const bool space = c == ' ' || c == '\t' || c == '\n' || c == '\r';
    kind[c] = letter ? Kind::letter : space ? Kind::space : c < ' ' || c == 0x7f ? Kind::control : Kind::sign;
  }
  return kind;
}
constexpr std::array<Kind, 128> kKinds = kinds();

Kind kind_of(char c) {
  const auto code = static_cast<unsigned char>(c);
  return code < kKinds.size() ? kKinds[code] : Kind::control;
}

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

} // namespace

WordPieces::WordPieces(bool lowercase, std::vector<std::string> added)
    : lowercase_(lowercase), added_(std::move(added)) {}

void WordPieces::add(const std::vector<std::string> &words, std::span<const std::int32_t> ids,
                     std::span<const std::int32_t> offsets) {
  const std::unique_lock lock(mutex_);
  for (std::size_t i = 0; i < words.size(); ++i) {
    const auto first = static_cast<std::size_t>(offsets[i]), last = static_cast<std::size_t>(offsets[i + 1]);
    const bool added = words_.try_emplace(words[i], Pieces{ids_.size(), last - first}).second;
    if (added)
      for (const std::int32_t id : ids.subspan(first, last - first))
        ids_.push_back(id);
  }
}

std::size_t WordPieces::size() const {
  const std::shared_lock lock(mutex_);
  return words_.size();
}

bool WordPieces::append(std::string_view word, std::vector<std::int32_t> &ids) const {
  const auto found = words_.find(word);
  if (found == words_.end())
    return false;
  const auto begin = ids_.begin() + static_cast<std::ptrdiff_t>(found->second.first);
  ids.insert(ids.end(), begin, begin + static_cast<std::ptrdiff_t>(found->second.count));
  return true;
}

WordPieces::Tokens WordPieces::read(std::span<const std::string_view> texts, std::size_t most,
                                    const WordPieces *more) const {
  const std::shared_lock lock(mutex_);
  std::shared_lock<std::shared_mutex> second;
  if (more != nullptr)
    second = std::shared_lock(more->mutex_);
  Tokens tokens;
  std::set<std::string, std::less<>> missing;
  std::array<char, kLongestWord> lowered;
  // Reads a text, and returns whether it could. A text with missing words is read to its end, to find them all.
  const auto read_one = [&](std::string_view text, std::size_t begin) {
    const auto holds = [&](const std::string &token) { return text.find(token) != std::string_view::npos; };
    if (std::any_of(added_.begin(), added_.end(), holds))
      return false;
    bool complete = true;
    for (std::size_t at = 0; at < text.size() && tokens.ids.size() - begin <= most;) {
      const Kind kind = kind_of(text[at]);
      if (kind == Kind::control)
        return false;
      std::size_t end = at + 1;
      if (kind == Kind::space) {
        at = end;
        continue;
      }
      if (kind == Kind::letter)
        while (end < text.size() && kind_of(text[end]) == Kind::letter)
          ++end;
      // A control character is removed, and what follows it belongs to the word.
      if (end - at > kLongestWord || (end < text.size() && kind_of(text[end]) == Kind::control))
        return false;
      std::string_view word = text.substr(at, end - at);
      if (lowercase_ && kind == Kind::letter) {
        std::transform(word.begin(), word.end(), lowered.begin(), lower);
        word = {lowered.data(), word.size()};
      }
      if (!append(word, tokens.ids) && (more == nullptr || !more->append(word, tokens.ids))) {
        complete = false;
        if (missing.find(word) == missing.end())
          missing.emplace(word);
      }
      at = end;
    }
    return complete;
  };
  tokens.counts.reserve(texts.size());
  for (const std::string_view text : texts) {
    const std::size_t begin = tokens.ids.size();
    const bool complete = read_one(text, begin);
    tokens.counts.push_back(complete ? static_cast<std::int32_t>(tokens.ids.size() - begin) : -1);
    if (!complete)
      tokens.ids.resize(begin);
  }
  tokens.missing.assign(missing.begin(), missing.end());
  return tokens;
}

} // namespace quaver
